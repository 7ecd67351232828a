// The mask is made on the host, the rest where the VAE is.
#include "model/image/frame_condition.h"

#include <fmt/format.h>

#include <vector>

#include "aerogel/error.h"
#include "core/views.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

// Channels first .. first + count - 1 of [1, channels, frames, height, width].
MutableView channels_of(const MutableView& all, std::int64_t first, std::int64_t count) {
    Shape shape = all.shape;
    shape[1] = count;
    const Shape strides = strides_of(all);
    return part_of(all, first * strides[1], std::move(shape), strides);
}

// Frame `index` of the same.
MutableView frame_of(const MutableView& all, std::int64_t index) {
    Shape shape = all.shape;
    shape[2] = 1;
    const Shape strides = strides_of(all);
    return part_of(all, index * strides[2], std::move(shape), strides);
}

void check_frame(const TensorView& frame, const char* which, const TensorView& like) {
    const Shape& shape = frame.shape;
    const bool fits = frame.dtype == DType::f32 && frame.contiguous() && shape.size() == 5 && shape[0] == 1 &&
                      shape[1] == 3 && shape[2] == 1 && shape == like.shape;
    if (fits) return;
    throw InvalidArgument(fmt::format(
        "[image] the {} frame must be contiguous f32[1,3,1,height,width] of one size, got {} (first {})",
        which, frame.describe(), like.describe()));
}

// Frame f of pixels is number f + factor - 1 of the mask's, since the first frame of latents stands for one
// of pixels and is marked in all its channels.
Tensor mask_of(const VaeShape& vae, const Shape& latents, std::int64_t frames, bool has_last) {
    const std::int64_t factor = vae.temporal_factor, place = latents[3] * latents[4];
    const Shape shape = {1, factor, latents[2], latents[3], latents[4]};
    std::vector<float> mask(static_cast<std::size_t>(element_count(shape)), 0.0F);
    const auto mark = [&](std::int64_t channel, std::int64_t frame) {
        const std::int64_t first = (channel * latents[2] + frame) * place;
        for (std::int64_t i = 0; i < place; ++i) mask[static_cast<std::size_t>(first + i)] = 1.0F;
    };
    for (std::int64_t channel = 0; channel < factor; ++channel) mark(channel, 0);
    if (has_last) {
        const std::int64_t last = frames - 1 + factor - 1;
        mark(last % factor, last / factor);
    }
    return Tensor::of(mask, shape);
}

}  // namespace

Tensor frame_condition(const Vae& vae, const GivenFrames& given, std::int64_t frames,
                       const VaeOptions& options) {
    const bool has_last = given.last.data != nullptr;
    check_frame(given.first, "first", given.first);
    if (has_last) check_frame(given.last, "last", given.first);
    const Shape latents = vae.shape().latents(frames, given.first.dim(3), given.first.dim(4));
    Shape shape = given.first.shape;
    shape[2] = frames;
    Tensor video = Tensor::zeros(DType::f32, shape);
    copy(given.first, frame_of(video, 0), options.call);
    if (has_last) copy(given.last, frame_of(video, frames - 1), options.call);
    const Tensor encoded = vae.encode(video.to(vae.device()), options);
    const std::int64_t masks = vae.shape().temporal_factor;
    Tensor condition(DType::f32, {1, condition_channels(vae.shape()), latents[2], latents[3], latents[4]},
                     vae.device());
    copy(mask_of(vae.shape(), latents, frames, has_last).to(vae.device()), channels_of(condition, 0, masks),
         options.call);
    copy(encoded, channels_of(condition, masks, latents[1]), options.call);
    return condition;
}

}  // namespace aerogel
