// Flow-matching samplers with the semantics of diffusers' FlowMatchEulerDiscreteScheduler (shift) and
// UniPCMultistepScheduler (flow prediction, order 2, bh2, flow_shift).
// layer: model
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "aerogel/tensor.h"

namespace aerogel {

enum class SamplerKind : std::uint8_t { euler, unipc };
/// "euler" or "unipc"; InvalidArgument otherwise.
SamplerKind sampler_kind_from(std::string_view name);
std::string_view to_string(SamplerKind kind);

/// Which noise levels a sample passes through, from all noise (1) to none (0).
struct NoiseLevels {
    int steps = 50;  ///< 1 .. 1000
    double shift =
        3.0;  ///< > 0: a level l becomes shift * l / (1 + (shift - 1) * l); the e^mu of dynamic shifts
    /// Before the shift the levels fall evenly from 1 to 1 / steps, as the image pipelines of diffusers give
    /// them, instead of to the lowest level of training.
    bool even = false;
    /// In (0, 1): the levels are stretched so that the last one is this ("shift_terminal").
    std::optional<double> terminal = {};
};

class Sampler {
  public:
    /// InvalidArgument for numbers outside of the ranges of NoiseLevels.
    static std::unique_ptr<Sampler> create(SamplerKind kind, const NoiseLevels& levels);
    virtual ~Sampler() = default;
    /// Timesteps to give the model, one per step (sigma * 1000).
    virtual const std::vector<float>& timesteps() const = 0;
    /// Advances the sample in place from step `index` with the model's velocity (both f32, contiguous, of one
    /// shape, on one device). unipc takes the steps of one sample in order. InvalidArgument.
    virtual void step(int index, const TensorView& velocity, const MutableView& sample) = 0;
};

}  // namespace aerogel
