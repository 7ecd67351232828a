// The loop over the steps. The passes with and without the caption run one after the other: half the memory
// of a batch of two.
#include "model/sampling_run.h"

#include <fmt/format.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "aerogel/quantize.h"
#include "base/clock.h"
#include "base/random.h"
#include "model/guidance.h"
#include "model/samplers/samplers.h"
#include "model/video_shape.h"
#include "ops/elementwise.h"
#include "quant/layer_patterns.h"

namespace aerogel {
namespace {

Tensor noise(const Shape& shape, std::uint64_t seed, Device device) {
    std::vector<float> sample(static_cast<std::size_t>(element_count(shape)));
    fill_normal(sample, seed);
    return Tensor::of(sample, shape, device);
}

class Run {
  public:
    explicit Run(const RunInputs& inputs)
        : inputs_(inputs),
          options_(inputs.options),
          model_(inputs.transformer(0)),
          sample_(noise(sample_shape(*model_, inputs.size), options_.sampling.seed, model_->device())),
          sampler_(model_->config(), options_, run_levels(inputs.folder, options_.sampling), sample_),
          timestep_(*options_.sampling.steps),
          caches_{StepCache(options_.sampling.cache), StepCache(options_.sampling.cache)} {
        take_policy();
    }

    /// Two experts, each for its noise levels (Wan 2.2: mixture of experts by noise): takes the steps of one
    /// that follow, and lets go of it.
    void take_steps(int expert) {
        for (; step_ < *options_.sampling.steps && expert_at(step_) == expert; ++step_) {
            if (expert != expert_) choose_expert(expert);
            take_step(step_);
        }
        model_.reset();
    }

    GenerateResult result() {
        result_.video = only_item(sample_.to(Device::cpu));
        return std::move(result_);
    }

  private:
    int expert_at(int step) const {
        return expert_ == 1 ? 1 : inputs_.folder.experts.at(sampler_.timestep(step, sample_.dim(2) - 1));
    }

    void choose_expert(int expert) {
        model_.reset();
        model_ = inputs_.transformer(expert);
        expert_ = expert;
        sparse_plans_ = {};
        caches_ = {StepCache(options_.sampling.cache), StepCache(options_.sampling.cache)};
        take_policy();
    }

    void take_step(int step) {
        const int steps = *options_.sampling.steps;
        const auto start = Clock::now();
        timestep_.set_timestep_idx(step);
        const Tensor velocity = guided_velocity(step);
        const auto before_preview = Clock::now();
        show_preview(step, velocity);
        const double preview_seconds = seconds_since(before_preview);
        sampler_.step(step, velocity);
        check_finite(step);
        result_.step_seconds.push_back(seconds_since(start) - preview_seconds);
        if (options_.progress && !options_.progress(step + 1, steps, result_.step_seconds.back()))
            throw Cancelled(fmt::format("[generate] stopped after step {} of {}", step + 1, steps));
    }

    // Before a step is taken that the attention would refuse. A format of the sparse calls' own has no
    // calibrated scales.
    void check_centroids() const {
        const std::optional<SparseConfig>& sparse = options_.sparse;
        if (!sparse || sparse->pattern.type == "none" || !sparse->pattern.centroids ||
            sparse->format != AttentionFormat::none)
            return;
        for (const std::string& name : model_->attention_names()) {
            const auto& quantization = model_->attention(name).quantization;
            const bool may_be_sparse = matches(model_->default_attentions(), name);
            if (!may_be_sparse || !quantization || !quantization->scales) continue;
            throw InvalidArgument(fmt::format(
                "[generate] centroids of skipped blocks do not go with the calibrated scales of {}", name));
        }
    }

    // Each time a model begins.
    void take_policy() {
        check_centroids();
        policy_ = options_.timestep_policy;
        if (options_.first_static_step) policy_ = policy_static_from(*model_, *options_.first_static_step);
        result_.weight_bytes += model_->weight_bytes();
    }

    // Of the clean sample that the velocity points to.
    void show_preview(int step, const Tensor& velocity) const {
        if (inputs_.preview == nullptr || step % options_.preview_every != 0) return;
        Tensor clean(DType::f32, sample_.shape(), sample_.device());
        combine({{1.0, sample_}, {-sampler_.timestep(step, sample_.dim(2) / 2) / kTrainTimesteps, velocity}},
                clean);
        options_.on_preview(step, inputs_.preview->picture(clean.to(Device::cpu)));
    }

    double guidance() const {
        const SamplingOptions& sampling = options_.sampling;
        return expert_ == 1 && sampling.guidance_2 ? *sampling.guidance_2 : *sampling.guidance;
    }

    // The model's own results are finite (Transformer::forward); guidance may still be too strong.
    void check_finite(int step) const {
        if (all_finite(sample_)) return;
        throw InvalidArgument(
            fmt::format("[generate] the video is not finite after step {}: the guidance {} is too strong, or "
                        "the shift {}",
                        step, guidance(), *options_.sampling.shift));
    }

    Tensor guided_velocity(int step) {
        Tensor conditional = velocity(step, /*conditional=*/true);
        if (!inputs_.negative_prompt_embeds.defined()) return conditional;
        const Tensor negative = velocity(step, /*conditional=*/false);
        const PipelineRow* row = inputs_.folder.row;
        guide(inputs_.folder.guidance_rule(), guidance(),
              {conditional, negative, row != nullptr ? row->token_side : 1});
        return conditional;
    }

    Tensor velocity(int step, bool conditional) {
        TransformerInput input;
        input.hidden_states = sample_;
        input.timestep = sampler_.timesteps(step);
        input.encoder_hidden_states = conditional ? inputs_.prompt_embeds : inputs_.negative_prompt_embeds;
        input.condition = inputs_.condition;
        input.encoder_hidden_states_image = inputs_.image_embeds;
        if (conditional && options_.on_transformer_input) options_.on_transformer_input(step, input);
        TransformerStep settings;
        settings.context.timestep_index = *timestep_.get_timestep_idx();
        if (policy_) settings.timestep_policy = &*policy_;
        if (options_.sparse) settings.sparse = &*options_.sparse;
        settings.sparse_plans = &sparse_plans_[conditional ? 0 : 1];
        StepCache& cache = caches_[conditional ? 0 : 1];
        settings.cache = &cache;
        settings.on_sparse = [&](int block, const SparseReport& report) {
            result_.sparse_calls.push_back({step, block, conditional, report});
        };
        if (options_.on_linear_input) {
            settings.on_linear_input = [&](const std::string& linear, const TensorView& x) {
                options_.on_linear_input(linear, step, x);
            };
        }
        if (options_.on_attention_input) {
            settings.on_attention_input = [&](const AttentionInput& at) {
                options_.on_attention_input(step, at);
            };
        }
        const std::size_t calls = result_.sparse_calls.size();
        Tensor velocity = model_->forward(input, settings);
        for (std::size_t i = calls; i < result_.sparse_calls.size(); ++i)
            result_.sparse_calls[i].report.read();
        if (cache.skipped()) result_.cached_passes.push_back({step, conditional});
        return velocity;
    }

    const RunInputs& inputs_;
    const GenerateOptions& options_;
    std::shared_ptr<Transformer> model_;
    int expert_ = 0;
    int step_ = 0;  // the next one
    std::optional<TimestepPolicyConfig> policy_;
    std::array<SparsePlans, 2> sparse_plans_;  // of the passes with and without the caption
    Tensor sample_;
    FrameSampler sampler_;
    TimestepManager timestep_;
    std::array<StepCache, 2> caches_;  // of the passes with and without the caption
    GenerateResult result_;
};

}  // namespace

Tensor only_item(const Tensor& batch) {
    return batch.reshaped({batch.shape().begin() + 1, batch.shape().end()});
}

NoiseLevels run_levels(const PipelineFolder& folder, const SamplingOptions& sampling) {
    NoiseLevels levels;
    levels.steps = *sampling.steps;
    levels.shift = *sampling.shift;
    levels.even = folder.row != nullptr && folder.row->even_levels;
    levels.terminal = folder.terminal;
    return levels;
}

GenerateResult run_sampling(const RunInputs& inputs) {
    return std::move(run_sampling({&inputs, 1}).front());
}

std::vector<GenerateResult> run_sampling(std::span<const RunInputs> inputs) {
    std::vector<std::unique_ptr<Run>> runs;
    for (const RunInputs& one : inputs) runs.push_back(std::make_unique<Run>(one));
    for (const int expert : {0, 1})
        for (const auto& run : runs) run->take_steps(expert);
    std::vector<GenerateResult> results;
    for (const auto& run : runs) results.push_back(run->result());
    return results;
}

}  // namespace aerogel
