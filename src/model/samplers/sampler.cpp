// Which samplers there are, and what every step checks.
#include "aerogel/sampler.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "model/samplers/samplers.h"

namespace aerogel {

SamplerKind sampler_kind_from(std::string_view name) {
    if (name == "euler") return SamplerKind::euler;
    if (name == "unipc") return SamplerKind::unipc;
    throw InvalidArgument(fmt::format("[sampler] must be euler or unipc, got {}", name));
}

std::string_view to_string(SamplerKind kind) {
    return kind == SamplerKind::euler ? "euler" : "unipc";
}

std::vector<double> noise_levels(SamplerKind kind, const NoiseLevels& levels) {
    const auto shifted = [&](double sigma) {
        return levels.shift * sigma / (1.0 + (levels.shift - 1.0) * sigma);
    };
    const int steps = levels.steps;
    double spacing = 0.0;  // from one step to the next, before the shift
    if (levels.even || kind == SamplerKind::euler) {
        // The lowest level is that of the shifted training schedule, shifted once more with all the others;
        // kept, because published step counts and shifts were tuned with it.
        const double last = levels.even ? 1.0 / steps : shifted(1.0 / kTrainTimesteps);
        if (steps > 1) spacing = (last - 1.0) / (steps - 1);
    } else {
        // In numpy.linspace's order of operations: a timestep that is a whole number must not fall below it.
        spacing = (1.0 / kTrainTimesteps - 1.0) / steps;
    }
    std::vector<double> sigmas;
    for (int i = 0; i < steps; ++i) sigmas.push_back(shifted(i * spacing + 1.0));
    if (!levels.terminal) return sigmas;
    const double last = sigmas.back();  // 1 only where there is one step: nothing to stretch
    const double stretch = (1.0 - *levels.terminal) / (1.0 - last);
    for (double& sigma : sigmas) sigma = last < 1.0 ? 1.0 - (1.0 - sigma) * stretch : sigma;
    return sigmas;
}

std::unique_ptr<Sampler> Sampler::create(SamplerKind kind, const NoiseLevels& levels) {
    constexpr int kMostSteps = 1000;
    // Beyond it neighbouring noise levels meet in float32; those of even steps are farther apart.
    const double largest_shift = levels.even && kind == SamplerKind::euler ? 1e4 : 100.0;
    if (levels.steps < 1 || levels.steps > kMostSteps) {
        throw InvalidArgument(
            fmt::format("[sampler] steps must be between 1 and {}, got {}", kMostSteps, levels.steps));
    }
    constexpr double kSmallestShift = 1e-3;
    if (!(levels.shift >= kSmallestShift) || levels.shift > largest_shift) {
        throw InvalidArgument(fmt::format("[sampler] shift must be from {} to {}, got {}", kSmallestShift,
                                          largest_shift, levels.shift));
    }
    if (levels.terminal && !(*levels.terminal > 0.0 && *levels.terminal < 1.0)) {
        throw InvalidArgument(
            fmt::format("[sampler] terminal must be between 0 and 1, got {}", *levels.terminal));
    }
    const std::vector<double> sigmas = noise_levels(kind, levels);
    return kind == SamplerKind::euler ? make_euler_sampler(sigmas) : make_unipc_sampler(sigmas);
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
            "[sampler] velocity and sample must be contiguous f32 of one shape on one device, got {} on {} "
            "and "
            "{} on {}",
            velocity.describe(), velocity.device.describe(), sample.describe(), sample.device.describe()));
    }
    if (sample.count() != 0 && (velocity.data == nullptr || sample.data == nullptr)) {
        throw InvalidArgument(fmt::format("[sampler] {} has no data (f32{})",
                                          velocity.data == nullptr ? "velocity" : "sample",
                                          to_string(sample.shape)));
    }
}

}  // namespace aerogel
