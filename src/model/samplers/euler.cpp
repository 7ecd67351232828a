// Euler steps along the velocity, with the noise levels of diffusers' FlowMatchEulerDiscreteScheduler. Its
// lowest level is that of the shifted training schedule, shifted once more with all the others; kept, because
// published step counts and shifts were tuned with it.
#include <cmath>

#include "model/samplers/samplers.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

class EulerSampler final : public Sampler {
  public:
    EulerSampler(int steps, double shift) {
        const double first = kTrainTimesteps;
        const double last = shifted(1.0 / kTrainTimesteps, shift) * kTrainTimesteps;
        const double spacing = steps == 1 ? 0.0 : (last - first) / (steps - 1);
        for (int i = 0; i < steps; ++i) {
            const double t = i * spacing + first;
            sigmas_.push_back(static_cast<float>(shifted(t / kTrainTimesteps, shift)));
            timesteps_.push_back(sigmas_.back() * static_cast<float>(kTrainTimesteps));
        }
        sigmas_.push_back(0.0F);
    }

    const std::vector<float>& timesteps() const override { return timesteps_; }

    void step(int index, const TensorView& velocity, const MutableView& sample) override {
        check_sampler_step(index, timesteps_.size(), velocity, sample);
        const auto at = static_cast<std::size_t>(index);
        const float delta = sigmas_[at + 1] - sigmas_[at];
        combine({{1.0, sample}, {delta, velocity}}, sample);
    }

  private:
    std::vector<float> sigmas_;  // one more than steps, ends with 0
    std::vector<float> timesteps_;
};

}  // namespace

std::unique_ptr<Sampler> make_euler_sampler(int steps, double shift) {
    return std::make_unique<EulerSampler>(steps, shift);
}

}  // namespace aerogel
