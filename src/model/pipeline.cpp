// Pipeline: options filled in and checked, noise, and the sampling loop with classifier-free guidance (Ho and
// Salimans, arXiv 2207.12598). The guided passes run one after the other: half the memory of a batch of two.
#include "aerogel/pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <utility>

#include "base/clock.h"
#include "base/random.h"
#include "core/paths.h"
#include "model/frame_sampler.h"
#include "model/pipeline_defaults.h"
#include "model/video_shape.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

// Used where neither the caller nor the folder says anything; those of Wan's own pipeline.
constexpr int kSteps = 50;
constexpr double kGuidance = 5.0;
constexpr double kShift = 3.0;

template <typename T>
void fill(std::optional<T>& value, const std::optional<T>& folder, std::optional<T> fallback = std::nullopt) {
    if (!value) value = folder ? folder : fallback;
}

Tensor noise(const Shape& shape, std::uint64_t seed, Device device) {
    std::vector<float> sample(static_cast<std::size_t>(element_count(shape)));
    fill_normal(sample, seed);
    return Tensor::of(sample, shape, device);
}

/// One sampling run: the model, its captions, and the sample on its way from noise to video.
class Run {
  public:
    struct Captions {
        Tensor prompt;
        Tensor negative;  // undefined = no guidance
    };

    Run(const Transformer& model, const GenerateOptions& options, Captions captions)
        : model_(model),
          options_(options),
          captions_(std::move(captions)),
          sample_(noise(video_shape(model, options.sampling), options.sampling.seed, model.device())),
          sampler_(model.config(), options, sample_),
          timestep_(*options.sampling.steps) {}

    GenerateResult finish() {
        for (int step = 0; step < *options_.sampling.steps; ++step) {
            const auto start = Clock::now();
            timestep_.set_timestep_idx(step);
            sampler_.step(step, guided_velocity(step));
            check_finite(step);
            result_.step_seconds.push_back(seconds_since(start));
            if (options_.progress &&
                !options_.progress(step + 1, *options_.sampling.steps, result_.step_seconds.back())) {
                throw Cancelled(fmt::format("[generate] stopped after step {} of {}", step + 1,
                                            *options_.sampling.steps));
            }
        }
        const Shape& shape = sample_.shape();
        result_.video = sample_.to(Device::cpu).reshaped({shape[1], shape[2], shape[3], shape[4]});
        return std::move(result_);
    }

  private:
    // The model's own results are finite (Transformer::forward); guidance may still be too strong.
    void check_finite(int step) const {
        if (all_finite(sample_)) return;
        throw InvalidArgument(
            fmt::format("[generate] the video is not finite after step {}: the guidance {} is too strong, or "
                        "the shift {}",
                        step, *options_.sampling.guidance, *options_.sampling.shift));
    }

    // negative + guidance * (conditional - negative), in the memory of the conditional velocity.
    Tensor guided_velocity(int step) {
        Tensor conditional = velocity(step, /*conditional=*/true);
        if (!captions_.negative.defined()) return conditional;
        const Tensor negative = velocity(step, /*conditional=*/false);
        combine({{1.0, conditional}, {-1.0, negative}}, conditional);
        combine({{1.0, negative}, {*options_.sampling.guidance, conditional}}, conditional);
        return conditional;
    }

    Tensor velocity(int step, bool conditional) {
        TransformerInput input;
        input.hidden_states = sample_;
        input.timestep = sampler_.timesteps(step);
        input.encoder_hidden_states = conditional ? captions_.prompt : captions_.negative;
        TransformerStep settings;
        settings.context.timestep_index = *timestep_.get_timestep_idx();
        if (options_.timestep_policy) settings.timestep_policy = &*options_.timestep_policy;
        if (options_.sparse) settings.sparse = &*options_.sparse;
        settings.sparse_plans = &sparse_plans_[conditional ? 0 : 1];
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
        return model_.forward(input, settings);
    }

    const Transformer& model_;
    const GenerateOptions& options_;
    Captions captions_;
    std::array<SparsePlans, 2> sparse_plans_;  // of the passes with and without the caption
    Tensor sample_;
    FrameSampler sampler_;
    TimestepManager timestep_;
    GenerateResult result_;
};

// The pass that makes the first frame alone.
GenerateOptions image_options(GenerateOptions options, const Transformer& model) {
    options.sampling.frames = static_cast<int>(model.config().patch_size[0]);
    options.sparse.reset();
    if (options.progress) {
        options.progress = [tell = options.progress](int, int steps, double seconds) {
            return tell(0, steps, seconds);
        };
    }
    return options;
}

Tensor caption_embeddings(const std::optional<TextEncoder>& encoder, const Tensor& given,
                          const std::string& caption, const char* name) {
    if (given.defined()) return given;
    if (encoder) return encoder->encode(caption);
    throw InvalidArgument(fmt::format(
        "[generate] the model folder has no text encoder that Aerogel can run: give {}_embeds", name));
}

}  // namespace

Pipeline Pipeline::load(const std::filesystem::path& folder, Device device) {
    return load(folder, Transformer::load(folder, device));
}

Pipeline Pipeline::load(const std::filesystem::path& folder, const LoadOptions& options) {
    return load(folder, Transformer::load(folder, options));
}

Pipeline Pipeline::load(const std::filesystem::path& folder, std::unique_ptr<Transformer> transformer) {
    Pipeline pipeline(std::move(transformer));
    // Text encoders of another kind (a language model's folder) are left aside: embeddings are given then.
    if (path_exists(folder / "text_encoder" / "vocabulary.json")) {
        pipeline.text_encoder_ = TextEncoder::load(folder / "text_encoder");
    }
    pipeline.defaults_ = read_pipeline_defaults(folder);
    return pipeline;
}

GenerateOptions Pipeline::with_defaults(GenerateOptions options) const {
    // Embeddings without a counterpart to steer away from leave nothing to guide with.
    const bool can_guide = options.negative_prompt_embeds.defined() || has_text_encoder();
    SamplingOptions& sampling = options.sampling;
    fill(sampling.frames, defaults_.frames);
    fill(sampling.height, defaults_.height);
    fill(sampling.width, defaults_.width);
    fill(sampling.steps, defaults_.steps, std::optional(kSteps));
    fill(sampling.guidance, can_guide ? defaults_.guidance : std::optional(1.0), std::optional(kGuidance));
    fill(sampling.shift, defaults_.shift, std::optional(kShift));
    fill(sampling.sampler, defaults_.sampler, std::optional(SamplerKind::unipc));
    fill(sampling.image_first, defaults_.image_first, std::optional(false));
    fill(sampling.stagger, defaults_.stagger, std::optional(0.0));
    return options;
}

GenerateResult Pipeline::generate(const GenerateOptions& given) const {
    GenerateOptions options = with_defaults(given);
    const SamplingOptions& sampling = options.sampling;
    if (!std::isfinite(*sampling.guidance)) {
        throw InvalidArgument(
            fmt::format("[generate] guidance must be a number, got {}", *sampling.guidance));
    }
    if (!(*sampling.stagger >= 0.0) || *sampling.stagger >= 1.0) {
        throw InvalidArgument(
            fmt::format("[generate] stagger must be at least 0 and less than 1, got {}", *sampling.stagger));
    }
    Run::Captions captions;
    captions.prompt = caption_embeddings(text_encoder_, options.prompt_embeds, options.prompt, "prompt");
    if (*sampling.guidance != 1.0) {
        captions.negative = caption_embeddings(text_encoder_, options.negative_prompt_embeds,
                                               options.negative_prompt, "negative_prompt");
    }
    double first_frame_seconds = 0.0;
    const bool has_more_frames = sampling.frames && *sampling.frames > transformer_->config().patch_size[0];
    if (*sampling.image_first && has_more_frames && !options.first_frame.defined()) {
        const GenerateResult image =
            Run(*transformer_, image_options(options, *transformer_), captions).finish();
        options.first_frame = image.video;
        for (const double seconds : image.step_seconds) first_frame_seconds += seconds;
    }
    GenerateResult result = Run(*transformer_, options, std::move(captions)).finish();
    result.first_frame_seconds = first_frame_seconds;
    return result;
}

}  // namespace aerogel
