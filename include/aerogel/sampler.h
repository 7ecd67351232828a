// Flow-matching samplers with the semantics of diffusers' FlowMatchEulerDiscreteScheduler (shift) and
// UniPCMultistepScheduler (flow prediction, order 2, bh2, flow_shift).
// layer: model
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "aerogel/tensor.h"

namespace aerogel {

enum class SamplerKind : std::uint8_t { euler, unipc };
/// "euler" or "unipc"; InvalidArgument otherwise.
SamplerKind sampler_kind_from(std::string_view name);

class Sampler {
  public:
    /// steps >= 1, shift > 0.
    static std::unique_ptr<Sampler> create(SamplerKind kind, int steps, double shift);
    virtual ~Sampler() = default;
    /// Timesteps to give the model, one per step (sigma * 1000).
    virtual const std::vector<float>& timesteps() const = 0;
    /// Advances the sample in place from step `index` with the model's velocity (both f32, of one shape,
    /// on one device).
    virtual void step(int index, const TensorView& velocity, const MutableView& sample) = 0;
};

}  // namespace aerogel
