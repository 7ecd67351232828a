// Which samplers there are, and what every step checks.
#include "aerogel/sampler.h"

#include <fmt/format.h>

#include <string>

#include "aerogel/error.h"
#include "model/samplers/samplers.h"

namespace aerogel {

SamplerKind sampler_kind_from(std::string_view name) {
    if (name == "euler") return SamplerKind::euler;
    if (name == "unipc") return SamplerKind::unipc;
    throw InvalidArgument(fmt::format("[sampler] must be euler or unipc, got {}", name));
}

std::unique_ptr<Sampler> Sampler::create(SamplerKind kind, int steps, double shift) {
    constexpr int kMostSteps = 1000;
    constexpr double kLargestShift = 100.0;  // beyond it neighbouring noise levels meet in float32
    if (steps < 1 || steps > kMostSteps) {
        throw InvalidArgument(
            fmt::format("[sampler] steps must be between 1 and {}, got {}", kMostSteps, steps));
    }
    if (!(shift > 0.0) || shift > kLargestShift) {
        throw InvalidArgument(
            fmt::format("[sampler] shift must be positive and at most {}, got {}", kLargestShift, shift));
    }
    return kind == SamplerKind::euler ? make_euler_sampler(steps, shift) : make_unipc_sampler(steps, shift);
}

void check_sampler_step(int index, std::size_t steps, const TensorView& velocity, const MutableView& sample) {
    if (index < 0 || static_cast<std::size_t>(index) >= steps) {
        throw InvalidArgument(fmt::format("[sampler] step must be in [0, {}), got {}", steps, index));
    }
    const bool fits = velocity.dtype == DType::f32 && sample.dtype == DType::f32 &&
                      velocity.shape == sample.shape && velocity.device == sample.device &&
                      velocity.contiguous() && sample.contiguous();
    if (!fits) {
        throw InvalidArgument(fmt::format(
            "[sampler] velocity and sample must be contiguous f32 of one shape on one device, got {} and {}",
            velocity.describe(), sample.describe()));
    }
}

}  // namespace aerogel
