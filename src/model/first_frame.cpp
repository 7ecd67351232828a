// FirstFrame: copies of the given part, and timesteps per token.
#include "model/first_frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "aerogel/error.h"

namespace aerogel {

FirstFrame::FirstFrame(const WanConfig& config, Tensor frame, const Shape& sample)
    : frame_(std::move(frame)) {
    if (!frame_.defined()) return;
    const Shape wanted = {sample[1], config.patch_size[0], sample[3], sample[4]};
    if (frame_.dtype() != DType::f32 || frame_.shape() != wanted) {
        throw InvalidArgument(fmt::format("[generate] first_frame must be f32{}, got {}", to_string(wanted),
                                          frame_.describe()));
    }
    given_tokens_ = sample[3] / config.patch_size[1] * (sample[4] / config.patch_size[2]);
    tokens_ = sample[2] / config.patch_size[0] * given_tokens_;
}

void FirstFrame::put(const Tensor& sample) const {
    if (!frame_.defined()) return;
    const std::int64_t part = frame_.count() / frame_.dim(0), whole = sample.count() / sample.dim(1);
    for (std::int64_t channel = 0; channel < frame_.dim(0); ++channel)
        std::copy_n(frame_.as<float>() + channel * part, part, sample.as<float>() + channel * whole);
}

Tensor FirstFrame::timesteps(float now) const {
    Tensor steps(DType::f32, frame_.defined() ? Shape{1, tokens_} : Shape{1});
    std::fill_n(steps.as<float>(), steps.count(), now);
    std::fill_n(steps.as<float>(), given_tokens_, 0.0F);
    return steps;
}

}  // namespace aerogel
