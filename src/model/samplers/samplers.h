// The flow-matching samplers behind Sampler::create, and the checks they share.
#pragma once

#include <cstdint>
#include <memory>

#include "aerogel/sampler.h"

namespace aerogel {

/// Training noise levels are multiples of 1/1000.
inline constexpr double kTrainTimesteps = 1000.0;

std::unique_ptr<Sampler> make_euler_sampler(int steps, double shift);
std::unique_ptr<Sampler> make_unipc_sampler(int steps, double shift);

/// Moves noise levels towards high noise: shift s / (1 + (shift - 1) s).
inline double shifted(double sigma, double shift) {
    return shift * sigma / (1.0 + (shift - 1.0) * sigma);
}

/// InvalidArgument unless 0 <= index < steps and velocity and sample are contiguous f32 of one shape on one
/// device.
void check_sampler_step(int index, std::size_t steps, const TensorView& velocity, const MutableView& sample);

}  // namespace aerogel
