// The flow-matching samplers behind Sampler::create, and the checks they share.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "aerogel/sampler.h"

namespace aerogel {

/// Training noise levels are multiples of 1/1000.
inline constexpr double kTrainTimesteps = 1000.0;

/// `sigmas`: a level for each step, falling, in (0, 1].
std::unique_ptr<Sampler> make_euler_sampler(const std::vector<double>& sigmas);
std::unique_ptr<Sampler> make_unipc_sampler(const std::vector<double>& sigmas);

/// The level of each step.
std::vector<double> noise_levels(SamplerKind kind, const NoiseLevels& levels);

/// InvalidArgument unless 0 <= index < steps and velocity and sample are contiguous f32 of one shape on one
/// device.
void check_sampler_step(int index, std::size_t steps, const TensorView& velocity, const MutableView& sample);

}  // namespace aerogel
