// UniPC of order 2 with B(h) = e^h - 1 ("bh2"; Zhao et al., arXiv 2302.04867) on predictions of the clean
// sample, with the flow noise levels of diffusers' UniPCMultistepScheduler. Every step first corrects the
// sample it was given by the new prediction, then predicts the next one; the first and the last step are of
// order 1. Coefficients and sums are computed in double.
#include <algorithm>
#include <cmath>
#include <utility>

#include "aerogel/error.h"
#include "model/samplers/samplers.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

// One transition from noise level sigma_from to sigma_to: with D(m) = m - m0,
// x_to = sample * x_from + clean * m0 + history * D(m of an earlier level) + arrival * D(m at sigma_to).
struct Transition {
    double sample = 0.0;
    double clean = 0.0;
    double history = 0.0;
    double arrival = 0.0;
};

double half_log_snr(double sigma) {
    return std::log(1.0 - sigma) - std::log(sigma);
}

class UniPcSampler final : public Sampler {
  public:
    explicit UniPcSampler(const std::vector<double>& sigmas) {
        for (double sigma : sigmas) {
            // log(1 - sigma) must stay finite.
            constexpr double kMargin = 1e-6;
            if (sigmas_.empty() && std::abs(sigma - 1.0) < kMargin) sigma -= kMargin;
            sigmas_.push_back(static_cast<double>(static_cast<float>(sigma)));
            // diffusers gives the model whole timesteps, rounded down.
            timesteps_.push_back(static_cast<float>(std::floor(sigma * kTrainTimesteps)));
        }
        sigmas_.push_back(0.0);
    }

    const std::vector<float>& timesteps() const override { return timesteps_; }

    void step(int index, const TensorView& velocity, const MutableView& sample) override {
        check_sampler_step(index, timesteps_.size(), velocity, sample);
        if (index != 0 && index != next_) {
            throw InvalidArgument(
                "[sampler] unipc takes the steps of one sample in order, from 0; expected " +
                std::to_string(next_) + ", got " + std::to_string(index));
        }
        if (index != 0 && (last_sample_.shape() != sample.shape || last_sample_.device() != sample.device)) {
            throw InvalidArgument("[sampler] unipc takes the steps of one sample, that of step 0 was " +
                                  last_sample_.describe() + " on " + last_sample_.device().describe() +
                                  ", got " + sample.describe() + " on " + sample.device.describe());
        }
        if (index == 0) start(sample);
        const int order = std::min({2, steps() - index, index + 1});
        const Transition correct = index == 0 ? Transition{} : corrector(index, previous_order_);
        const Transition predict = predictor(index, order);
        next_ = 0;  // begins anew where advance() is cancelled in its middle
        advance(index, {correct, predict}, velocity, sample);
        previous_order_ = order;
        next_ = index + 1;
    }

  private:
    struct Pair {
        Transition correct;
        Transition predict;
    };

    int steps() const { return static_cast<int>(timesteps_.size()); }
    double sigma(int index) const { return sigmas_[static_cast<std::size_t>(index)]; }

    void start(const MutableView& sample) {
        for (Tensor* tensor : {&last_sample_, &clean_, &older_clean_, &scratch_})
            *tensor = Tensor::zeros(DType::f32, sample.shape, sample.device);
    }

    // From level index to index + 1; at sigma 0 the limit is the clean sample itself.
    Transition predictor(int index, int order) const {
        const double alpha = 1.0 - sigma(index + 1);
        const double h = step_size(index);
        const double b_h = std::expm1(-h);
        Transition t{sigma(index + 1) / sigma(index), -alpha * b_h, 0.0, 0.0};
        if (order == 2) t.history = -alpha * b_h * 0.5 / ratio(index);
        return t;
    }

    // From level index - 1 to index, now that the prediction at index is known.
    Transition corrector(int index, int order) const {
        const double alpha = 1.0 - sigma(index);
        const double h = step_size(index - 1);
        const double b_h = std::expm1(-h);
        Transition t{sigma(index) / sigma(index - 1), -alpha * b_h, 0.0, 0.0};
        if (order == 1) {
            t.arrival = -alpha * b_h * 0.5;
            return t;
        }
        // Solves [[1, 1], [r, 1]] rho = b with b_k = k! phi_{k+1}(-h) * (-h) / B(h).
        const double r = ratio(index - 1);
        const double phi2 = b_h / -h - 1.0;
        const double b1 = phi2 / b_h;
        const double b2 = 2.0 * (phi2 / -h - 0.5) / b_h;
        const double rho_history = (b2 - b1) / (r - 1.0);
        t.history = -alpha * b_h * rho_history / r;
        t.arrival = -alpha * b_h * (b1 - rho_history);
        return t;
    }

    double step_size(int index) const { return half_log_snr(sigma(index + 1)) - half_log_snr(sigma(index)); }
    // Where the level before index lies, in units of the step that leaves index; negative.
    double ratio(int index) const {
        return (half_log_snr(sigma(index - 1)) - half_log_snr(sigma(index))) / step_size(index);
    }

    // With m = sample - level * velocity, the prediction of the clean sample, m0 the one before it, and x the
    // corrected sample (the sample itself in step 0), the next one is
    // predict.sample * x + predict.clean * m + predict.history * (m0 - m).
    void advance(int index, const Pair& pair, const TensorView& velocity, const MutableView& sample) {
        const Transition& c = pair.correct;
        const Transition& p = pair.predict;
        const double level = sigma(index);
        const double of_m = p.clean - p.history;
        if (index == 0) {
            copy(sample, last_sample_);
            combine({{p.sample + of_m, sample}, {-of_m * level, velocity}}, scratch_, true);
        } else {
            const double before = c.clean - c.history - c.arrival, now = p.sample * c.arrival + of_m;
            combine({{p.sample * c.sample, last_sample_},
                     {p.sample * before + p.history, clean_},
                     {p.sample * c.history, older_clean_},
                     {now, sample},
                     {-now * level, velocity}},
                    scratch_, true);
            combine({{c.sample, last_sample_},
                     {before, clean_},
                     {c.history, older_clean_},
                     {c.arrival, sample},
                     {-c.arrival * level, velocity}},
                    last_sample_, true);
        }
        combine({{1.0, sample}, {-level, velocity}}, older_clean_, true);
        std::swap(clean_, older_clean_);
        copy(scratch_, sample);
    }

    std::vector<double> sigmas_;  // one more than steps, ends with 0; float32 values
    std::vector<float> timesteps_;
    Tensor last_sample_;  // the corrected sample of the previous step
    Tensor clean_;        // its prediction of the clean sample
    Tensor older_clean_;  // and the one before
    Tensor scratch_;
    int previous_order_ = 1;
    int next_ = 0;
};

}  // namespace

std::unique_ptr<Sampler> make_unipc_sampler(const std::vector<double>& sigmas) {
    return std::make_unique<UniPcSampler>(sigmas);
}

}  // namespace aerogel
