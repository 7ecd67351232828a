// The parts of an image encoder must fit each other, and the transformer that they are for.
#include "model/image/image_encoder.h"

#include <fmt/format.h>

#include "aerogel/error.h"

namespace aerogel {

ImageEncoder::ImageEncoder(const std::filesystem::path& pipeline, const LoadOptions& options)
    : folder_(pipeline / "image_encoder"),
      vision_(folder_, options),
      input_(ClipImageInput::read(pipeline / "image_processor" / "preprocessor_config.json")) {
    const std::int64_t side = vision_.image_size();
    if (input_.crop_height == side && input_.crop_width == side) return;
    throw InvalidArgument(
        fmt::format("[image processor] {}: crop_size must be {}x{}, the image_size of {}, got {}x{}",
                    (pipeline / "image_processor" / "preprocessor_config.json").string(), side, side,
                    (folder_ / "config.json").string(), input_.crop_width, input_.crop_height));
}

void ImageEncoder::check_fits(const SeenPictures& wanted) const {
    const std::string where = fmt::format("[clip] {}: ", (folder_ / "config.json").string());
    if (wanted.image_dim && vision_.dim() != *wanted.image_dim)
        throw InvalidArgument(
            fmt::format("{}hidden_size must be {}, the image_dim of the transformer, got {}", where,
                        *wanted.image_dim, vision_.dim()));
    if (wanted.pos_embed_seq_len && 2 * vision_.tokens() != *wanted.pos_embed_seq_len)
        throw InvalidArgument(
            fmt::format("{}image_size and patch_size must give half of the {} tokens of the transformer's "
                        "pos_embed_seq_len, got {}",
                        where, *wanted.pos_embed_seq_len, vision_.tokens()));
}

}  // namespace aerogel
