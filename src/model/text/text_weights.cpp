// TextWeights: a Checkpoint with a prefix.
#include "model/text/text_weights.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "core/paths.h"

namespace aerogel {
namespace {

Checkpoint open_weights(const std::string& family, const std::filesystem::path& folder,
                        const LoadOptions& options) {
    for (const char* name : {"model.safetensors", "model.safetensors.index.json"})
        if (path_exists(folder / name)) return Checkpoint::open(family, folder, options);
    throw IoError(fmt::format("[{}] {} has neither model.safetensors nor model.safetensors.index.json",
                              family, folder.string()));
}

}  // namespace

TextWeights::TextWeights(const std::string& family, const std::filesystem::path& folder,
                         const LoadOptions& options, std::string_view probe,
                         std::initializer_list<std::string_view> prefixes)
    : checkpoint_(open_weights(family, folder, options)) {
    for (const std::string_view prefix : prefixes) {
        prefix_ = prefix;
        if (contains(std::string(probe))) return;
    }
}

bool TextWeights::contains(const std::string& name) const {
    return checkpoint_.file().contains(prefix_ + name);
}

LinearSlot TextWeights::linear(const std::string& name, std::int64_t in_features, std::int64_t out_features,
                               bool bias) {
    return checkpoint_.linear(prefix_ + name, in_features, out_features, bias);
}

Tensor TextWeights::vector(const std::string& name, std::int64_t size) {
    return checkpoint_.take_f32(prefix_ + name, {size});
}

Tensor TextWeights::matrix(const std::string& name, std::int64_t rows, std::int64_t columns) {
    const Tensor matrix = checkpoint_.take_f32(prefix_ + name, {rows, columns});
    return matrix.defined() ? matrix.to(Device::cpu) : matrix;
}

Tensor TextWeights::table(const std::string& name, std::int64_t rows, std::int64_t columns) {
    return checkpoint_.take(prefix_ + name, {rows, columns});
}

void TextWeights::check_layers(std::string_view key, std::int64_t layers) const {
    checkpoint_.check_layers(layers, fmt::format("{} = {}", key, layers));
}

std::size_t TextWeights::finish(std::span<LinearSlot* const> slots) const {
    return checkpoint_.finish(slots);
}

}  // namespace aerogel
