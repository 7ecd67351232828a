// Euler steps along the velocity.
#include "model/samplers/samplers.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

class EulerSampler final : public Sampler {
  public:
    explicit EulerSampler(const std::vector<double>& sigmas) {
        for (const double sigma : sigmas) {
            sigmas_.push_back(static_cast<float>(sigma));
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

std::unique_ptr<Sampler> make_euler_sampler(const std::vector<double>& sigmas) {
    return std::make_unique<EulerSampler>(sigmas);
}

}  // namespace aerogel
