// Pipeline: components loaded when they are needed, options filled in, and the stages from a caption to
// pixels.
#include "aerogel/pipeline.h"

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <type_traits>
#include <utility>

#include "aerogel/lora.h"
#include "base/clock.h"
#include "base/standard_floats.h"
#include "model/families.h"
#include "model/generate_checks.h"
#include "model/guidance.h"
#include "model/image/frame_condition.h"
#include "model/image/image_encoder.h"
#include "model/image/image_input.h"
#include "model/pipeline_component.h"
#include "model/pipeline_folder.h"
#include "model/preview.h"
#include "model/quantize.h"
#include "model/sampling_run.h"
#include "model/text/prompt_encoder.h"
#include "model/vae/vae.h"
#include "model/video/video_file.h"
#include "model/video_shape.h"
#include "ops/elementwise.h"
#include "ops/machines.h"

namespace aerogel {
namespace {

// Used where neither the caller nor the folder says anything; those of Wan's own pipeline.
constexpr int kSteps = 50;
constexpr double kGuidance = 5.0;

template <typename T>
void fill(std::optional<T>& value, const std::optional<T>& folder, std::optional<T> fallback = std::nullopt) {
    if (!value) value = folder ? folder : fallback;
}

struct GivenPictures {
    std::optional<Picture> first, last;
};

/// Tells the caller what is being done, and keeps how long it took, without the stages within it.
class Stages {
  public:
    explicit Stages(const GenerateOptions& options) : options_(options) {}

    void tell(std::string_view stage, double done) const {
        if (options_.on_stage && !options_.on_stage(stage, done))
            throw Cancelled(fmt::format("[generate] stopped during '{}'", stage));
    }

    template <typename Work>
    auto run(std::string_view stage, const Work& work) {
        tell(stage, 0.0);
        const auto start = Clock::now();
        const double before = std::exchange(within_, 0.0);
        const auto end = [&] {
            const double all = seconds_since(start);
            seconds.push_back({std::string(stage), all - within_});
            within_ = before + all;
            tell(stage, 1.0);
        };
        if constexpr (std::is_void_v<decltype(work())>) {
            work();
            end();
        } else {
            auto result = work();
            end();
            return result;
        }
    }

    std::vector<StageSeconds> seconds;

  private:
    const GenerateOptions& options_;
    double within_ = 0.0;  ///< seconds of the stages that ended within the current one
};

// The pass that makes the first frame alone.
GenerateOptions first_frame_options(GenerateOptions options) {
    options.sparse.reset();
    if (options.progress) {
        options.progress = [tell = options.progress](int, int steps, double seconds) {
            return tell(0, steps, seconds);
        };
    }
    return options;
}

GivenPictures read_pictures(const GenerateOptions& call, const PipelineFolder& folder) {
    const bool wanted = folder.row != nullptr && folder.row->from_image;
    if (wanted && call.image.empty() && !call.first_frame.defined())
        throw InvalidArgument(
            "[generate] this pipeline makes videos of a picture: a first frame must be given (image)");
    GivenPictures given;
    if (call.image.empty() && call.last_image.empty()) return given;
    if (!folder.has_vae)
        throw InvalidArgument("[generate] the model folder has no VAE to encode a picture with");
    if (!call.last_image.empty() && (!folder.joins_pictures() || call.image.empty())) {
        throw InvalidArgument(
            "[generate] a last frame (last_image) is for image-to-video models that are told pictures "
            "beside the noise, together with a first one (image)");
    }
    if (folder.seen.image_dim && call.last_image.empty() == folder.seen.pos_embed_seq_len.has_value()) {
        throw InvalidArgument(
            fmt::format("[generate] this model is told {} (pos_embed_seq_len), got {}",
                        folder.seen.pos_embed_seq_len ? "a first and a last picture" : "one picture",
                        call.last_image.empty() ? "no last_image" : "a last_image as well"));
    }
    if (!call.image.empty() && call.first_frame.defined())
        throw InvalidArgument("[generate] give only one of image and first_frame");
    given.first = read_picture(call.image);
    if (!call.last_image.empty()) given.last = read_picture(call.last_image);
    return given;
}

// Names, shapes and headers: what is wrong with one part is found before another one has run. Weights stay on
// the disk.
TransformerConfig checked_config(const std::filesystem::path& home, const LoadOptions& options) {
    check_load_options(options);
    const LoadOptions not_packed = {.weights = options.weights, .online = OnlineQuantConfig{}};
    const auto transformer = family_of(home / "config.json").load(home, not_packed);
    for (const LoraFile& lora : options.loras) load_lora(*transformer, lora);
    check_quantization(*transformer, options);
    return transformer->config();
}

// `options` whose progress is told to `progress` too.
LoadOptions told_as_well(LoadOptions options, const std::function<void(double done)>& progress) {
    if (!progress) return options;
    options.on_progress = [first = std::move(options.on_progress), progress](double done) {
        if (first) first(done);
        progress(done);
    };
    return options;
}

/// What the transformer is told; undefined where there is nothing.
struct Conditions {
    Tensor prompt, negative;
    Tensor first_frame;  ///< GenerateOptions::first_frame of a picture
    Tensor frames;       ///< TransformerInput::condition
    Tensor image;        ///< TransformerInput::encoder_hidden_states_image
    std::optional<LatentPreview> preview;
};

}  // namespace

struct Pipeline::Parts {
    std::filesystem::path path;
    std::array<LoadOptions, 2> options;  ///< of the experts
    LoadOptions text_options;
    PipelineFolder folder;
    std::array<TransformerConfig, 2> configs;  ///< of the same
    std::optional<VaeShape> known_vae_shape;
    bool own_transformer = false;  ///< the transformer is the caller's: it is never let go

    std::array<PipelineComponent<Transformer>, 2> transformers;
    PipelineComponent<PromptEncoder> text;
    PipelineComponent<ImageEncoder> images;
    PipelineComponent<Vae> vae;

    static std::unique_ptr<Parts> read(const std::filesystem::path& path) {
        auto parts = std::make_unique<Parts>();
        parts->path = path;
        parts->folder = PipelineFolder::read(path);
        if (parts->folder.has_vae) parts->known_vae_shape = Vae::load(path / "vae")->shape();
        return parts;
    }

    const Shape& token() const { return configs[0].patch_size; }
    /// Tokens of one frame, where sizes are known; 0 otherwise.
    double frame_tokens(const SamplingOptions& sampling) const {
        const VaeShape* shape = vae_shape();
        if (shape == nullptr || !sampling.height || !sampling.width) return 0.0;
        const auto side = static_cast<double>(shape->spatial_factor * token()[1]);
        return *sampling.height / side * (*sampling.width / side);
    }

    bool needs_image_encoder() const { return folder.joins_pictures() && folder.seen.image_dim; }
    int experts() const { return folder.experts.boundary_ratio ? 2 : 1; }
    /// That what the transformers are told is what the other components give.
    void check_together() const;

    using LoadProgress = std::function<void(double done)>;

    bool is_loaded(int expert) const { return transformers.at(static_cast<std::size_t>(expert)).is_loaded(); }

    std::shared_ptr<Transformer> transformer(int expert, const LoadProgress& progress = {}) {
        return transformers.at(static_cast<std::size_t>(expert)).get([&] {
            const LoadOptions how = told_as_well(options.at(static_cast<std::size_t>(expert)), progress);
            return Transformer::load(expert == 0 ? path : path / Experts::folder_of(1), how);
        });
    }

    /// The same as a stage of a call.
    std::shared_ptr<Transformer> staged_transformer(int expert, Stages& stages) {
        const std::string stage = fmt::format("load {}", Experts::folder_of(expert));
        return stages.run(
            stage, [&] { return transformer(expert, [&](double done) { stages.tell(stage, done); }); });
    }

    std::shared_ptr<PromptEncoder> prompt_encoder(const LoadProgress& progress) {
        return text.get([&] { return PromptEncoder::load(path, told_as_well(text_options, progress)); });
    }

    std::shared_ptr<ImageEncoder> image_encoder() {
        return images.get(
            [&] { return std::make_unique<ImageEncoder>(path, LoadOptions{.device = options[0].device}); });
    }

    std::shared_ptr<Vae> decoder() {
        return vae.get([&] {
            const Device device = options[0].device;
            const bool there = !machine_of(device).convolution.empty();  // else the CPU has to do
            return Vae::load(path / "vae", there ? device : Device::cpu);
        });
    }

    /// Null: the sample is the video.
    const VaeShape* vae_shape() const { return known_vae_shape ? &*known_vae_shape : nullptr; }

    void let_go_of_transformer(int expert, Keep keep) {
        if (own_transformer && keep == Keep::nothing) return;
        transformers.at(static_cast<std::size_t>(expert)).let_go(keep);
    }
    void let_go(Keep keep) {
        text.let_go(keep);
        images.let_go(keep);
        vae.let_go(keep);
        let_go_of_transformer(0, keep);
        let_go_of_transformer(1, keep);
    }

    /// What one call of generate() does.
    Tensor embeddings(const GenerateOptions& options, bool negative, Stages& stages);
    void look_at_pictures(const GivenPictures& given, const GenerateOptions& options, Conditions& conditions,
                          Stages& stages);
    std::vector<GenerateResult> denoise(const GenerateOptions& options, const Conditions& conditions,
                                        int count, Stages& stages);
    static std::vector<GenerateResult> sample(std::vector<RunInputs> runs, std::int64_t patch_frames);
    void decode(std::vector<GenerateResult>& results, const GenerateOptions& options, Stages& stages);
};

void Pipeline::Parts::check_together() const {
    if (experts() == 2) Experts::check_alike(configs[0], configs[1], path);
    if (!needs_image_encoder()) return;
    if (!folder.why_no_image_encoder.empty()) {
        throw InvalidArgument(fmt::format("{}: the transformer is told what it sees (image_dim = {})",
                                          folder.why_no_image_encoder, *folder.seen.image_dim));
    }
    ImageEncoder(path).check_fits(folder.seen);
}

Tensor Pipeline::Parts::embeddings(const GenerateOptions& call, bool negative, Stages& stages) {
    const Tensor& given = negative ? call.negative_prompt_embeds : call.prompt_embeds;
    if (given.defined()) return given;
    if (!folder.why_no_text.empty())
        throw InvalidArgument(
            fmt::format("{}: give {}_embeds", folder.why_no_text, negative ? "negative_prompt" : "prompt"));
    const auto encoder = stages.run("load text_encoder", [&] {
        return prompt_encoder([&](double done) { stages.tell("load text_encoder", done); });
    });
    std::string prompt = negative ? call.negative_prompt : call.prompt;
    if (negative && prompt.empty() && folder.row != nullptr) prompt = folder.row->negative_prompt;
    return stages.run("encode prompt", [&] { return encoder->encode(prompt); });
}

// A given picture, as latents of frames and as what an image encoder sees in it.
void Pipeline::Parts::look_at_pictures(const GivenPictures& given, const GenerateOptions& call,
                                       Conditions& conditions, Stages& stages) {
    if (!given.first) return;
    const SamplingOptions& sampling = call.sampling;
    const auto pixels = [&](const Picture& of) { return pixels_of(of, *sampling.height, *sampling.width); };
    {
        const auto coder = stages.run("load vae", [&] { return decoder(); });
        stages.run("encode image", [&] {
            const Tensor first = pixels(*given.first);
            if (folder.joins_pictures()) {
                const Tensor last = given.last ? pixels(*given.last) : Tensor();
                conditions.frames = frame_condition(*coder, {first, last}, *sampling.frames);
            } else {
                conditions.first_frame = only_item(coder->encode(first.to(coder->device())));
            }
        });
    }
    vae.let_go(call.keep);
    if (!needs_image_encoder()) return;
    {
        const auto encoder = stages.run("load image_encoder", [&] { return image_encoder(); });
        std::vector<Picture> seen = {*given.first};
        if (given.last) seen.push_back(*given.last);
        conditions.image = stages.run("look at image", [&] { return encoder->look(seen); });
    }
    images.let_go(call.keep);
}

// Runs that differ in their seeds. With image_first the first frames are made in runs of their own, then
// given to the runs of all frames.
std::vector<GenerateResult> Pipeline::Parts::sample(std::vector<RunInputs> runs, std::int64_t patch_frames) {
    const RunInputs& one = runs.front();
    const bool given = one.options.first_frame.defined() || one.condition.defined();
    if (!*one.options.sampling.image_first || one.size[0] <= patch_frames || given) return run_sampling(runs);
    std::vector<RunInputs> first = runs;
    for (RunInputs& run : first) {
        run.options = first_frame_options(run.options);
        run.size[0] = patch_frames;
    }
    const std::vector<GenerateResult> frames = run_sampling(first);
    for (std::size_t i = 0; i < runs.size(); ++i) runs[i].options.first_frame = frames[i].video;
    std::vector<GenerateResult> results = run_sampling(runs);
    for (std::size_t i = 0; i < runs.size(); ++i)
        for (const double seconds : frames[i].step_seconds) results[i].first_frame_seconds += seconds;
    return results;
}

std::vector<GenerateResult> Pipeline::Parts::denoise(const GenerateOptions& call,
                                                     const Conditions& conditions, int count,
                                                     Stages& stages) {
    staged_transformer(0, stages);
    RunInputs inputs = {folder,
                        call,
                        {},
                        conditions.prompt,
                        conditions.negative,
                        conditions.frames,
                        conditions.image,
                        conditions.preview ? &*conditions.preview : nullptr,
                        {}};
    if (conditions.first_frame.defined()) inputs.options.first_frame = conditions.first_frame;
    inputs.size = sample_size(call.sampling, vae_shape(), token());
    inputs.transformer = [&](int expert) {
        let_go_of_transformer(1 - expert, call.keep);
        return is_loaded(expert) ? transformer(expert) : staged_transformer(expert, stages);
    };
    int done = 0;  // steps of all videos
    inputs.options.progress = [&](int step, int steps, double seconds) {
        if (step > 0) ++done;
        stages.tell("denoise", static_cast<double>(done) / (count * steps));
        return !call.progress || call.progress(done, count * steps, seconds);
    };
    std::vector<RunInputs> runs(static_cast<std::size_t>(count), inputs);
    for (std::size_t i = 0; i < runs.size(); ++i) runs[i].options.sampling.seed += i;
    std::vector<GenerateResult> results = stages.run("denoise", [&] {
        if (folder.experts.boundary_ratio) return sample(std::move(runs), token()[0]);
        std::vector<GenerateResult> made;
        for (const RunInputs& run : runs) made.push_back(std::move(sample({run}, token()[0]).front()));
        return made;
    });
    let_go_of_transformer(0, call.keep);
    let_go_of_transformer(1, call.keep);
    return results;
}

void Pipeline::Parts::decode(std::vector<GenerateResult>& results, const GenerateOptions& call,
                             Stages& stages) {
    const auto loaded = stages.run("load vae", [&] { return decoder(); });
    const auto to_pixels = [&](Tensor& video, double before) {
        VaeOptions settings;
        settings.progress = [&](double done) {
            stages.tell("decode", before + done / static_cast<double>(results.size()));
            return true;
        };
        const Shape& latents = video.shape();
        const Tensor batch = video.reshaped({1, latents[0], latents[1], latents[2], latents[3]});
        video = only_item(loaded->decode(batch.to(loaded->device()), settings).to(Device::cpu));
        if (!all_finite(video)) throw InvalidArgument("[generate] the decoded video is not finite");
    };
    stages.run("decode", [&] {
        for (std::size_t i = 0; i < results.size(); ++i)
            to_pixels(results[i].video, static_cast<double>(i) / static_cast<double>(results.size()));
    });
    vae.let_go(call.keep);
}

/// Lets go of all components at the end, also after an error.
class Pipeline::LettingGo {
  public:
    LettingGo(Parts& parts, Keep keep) : parts_(parts), keep_(keep) {}
    LettingGo(const LettingGo&) = delete;
    LettingGo& operator=(const LettingGo&) = delete;
    ~LettingGo() { parts_.let_go(keep_); }

  private:
    Parts& parts_;
    Keep keep_;
};

Pipeline::Pipeline(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Pipeline::Pipeline(Pipeline&&) noexcept = default;
Pipeline& Pipeline::operator=(Pipeline&&) noexcept = default;
Pipeline::~Pipeline() = default;

Pipeline Pipeline::load(const std::filesystem::path& folder, const LoadOptions& options,
                        const LoadOptions& text_encoder, const std::optional<LoadOptions>& transformer_2) {
    family_of(transformer_folder(folder) / "config.json");
    auto parts = Parts::read(folder);
    const bool two = parts->folder.experts.boundary_ratio.has_value();
    if (transformer_2 && !two) {
        throw InvalidArgument(fmt::format(
            "[pipeline] options of transformer_2 were given, but {} has one transformer", folder.string()));
    }
    const bool second_pair = transformer_2 && !transformer_2->quantized.empty();
    if (two && second_pair == options.quantized.empty()) {
        throw InvalidArgument(
            "[pipeline] a quantized pair is of one transformer, this pipeline has two: give a pair for each, "
            "or quantize both while they are loaded (online)");
    }
    parts->options = {options, transformer_2.value_or(options)};
    LoadOptions& second = parts->options[1];
    if (!transformer_2) {  // what is given is given for transformer/
        second.weights.clear();
        second.loras.clear();
    }
    if (second.device == Device{}) second.device = options.device;
    if (second.device != options.device) {
        throw InvalidArgument(fmt::format("[pipeline] both transformers must be on one device, got {} and {}",
                                          options.device.describe(), second.device.describe()));
    }
    parts->configs[0] = checked_config(transformer_folder(folder), options);
    if (two) parts->configs[1] = checked_config(folder / Experts::folder_of(1), second);
    parts->check_together();
    parts->text_options = text_encoder;
    return Pipeline(std::move(parts));
}

Pipeline Pipeline::load(const std::filesystem::path& folder, Device device) {
    return load(folder, LoadOptions{.device = device}, LoadOptions{.device = device});
}

Pipeline Pipeline::load(const std::filesystem::path& folder, std::unique_ptr<Transformer> transformer) {
    if (transformer == nullptr) throw InvalidArgument("[pipeline] the transformer that is given is null");
    auto parts = Parts::read(folder);
    for (LoadOptions* options : {&parts->options[0], &parts->options[1], &parts->text_options})
        options->device = transformer->device();
    parts->configs[0] = transformer->config();
    if (parts->experts() == 2)
        parts->configs[1] = checked_config(folder / Experts::folder_of(1), parts->options[1]);
    parts->check_together();
    parts->transformers[0].get([&] { return std::move(transformer); });
    parts->own_transformer = true;
    return Pipeline(std::move(parts));
}

Pipeline::Parts& Pipeline::parts() const {
    if (parts_ == nullptr) throw InvalidArgument("[pipeline] this pipeline was moved to another one");
    return *parts_;
}

int Pipeline::experts() const {
    return parts().experts();
}

const TransformerConfig& Pipeline::transformer_config() const {
    return parts().configs[0];
}

Transformer& Pipeline::loaded(int expert) const {
    if (expert < 0 || expert >= experts())
        throw InvalidArgument(fmt::format("[pipeline] there are {} experts, got {}", experts(), expert));
    return *parts().transformer(expert);
}

bool Pipeline::has_text_encoder() const {
    return parts().folder.why_no_text.empty();
}

bool Pipeline::has_vae() const {
    return parts().folder.has_vae;
}

double Pipeline::frames_per_second() const {
    return parts().folder.has_vae ? parts().folder.defaults.frames_per_second : 8.0;
}

GenerateOptions Pipeline::with_defaults(GenerateOptions options) const {
    const PipelineFolder& folder = parts().folder;
    // Embeddings without a counterpart to steer away from leave nothing to guide with.
    const bool can_guide = options.negative_prompt_embeds.defined() || has_text_encoder();
    SamplingOptions& sampling = options.sampling;
    const bool sized = folder.has_vae && folder.row != nullptr;
    const auto size = [&](int value) { return sized ? std::optional(value) : std::nullopt; };
    fill(sampling.frames, folder.sampling.frames, size(folder.defaults.frames));
    fill(sampling.height, folder.sampling.height, size(folder.defaults.height));
    fill(sampling.width, folder.sampling.width, size(folder.defaults.width));
    fill(sampling.steps, folder.sampling.steps, std::optional(folder.row ? folder.defaults.steps : kSteps));
    if (!can_guide && !sampling.guidance) sampling.guidance = no_guidance(folder.guidance_rule());
    fill(sampling.guidance, folder.sampling.guidance,
         std::optional(folder.row ? folder.defaults.guidance : kGuidance));
    fill(sampling.sampler, folder.sampling.sampler, std::optional(SamplerKind::unipc));
    fill(sampling.image_first, folder.sampling.image_first, std::optional(false));
    fill(sampling.stagger, folder.sampling.stagger, std::optional(0.0));
    if (!sampling.shift) sampling.shift = folder.shift(parts().frame_tokens(sampling), *sampling.steps);
    return options;
}

bool Pipeline::guides(const GenerateOptions& options) const {
    return parts().folder.guides(with_defaults(options).sampling);
}

bool Pipeline::encodes_text(const GenerateOptions& options) const {
    if (!has_text_encoder()) return false;
    return !options.prompt_embeds.defined() || (guides(options) && !options.negative_prompt_embeds.defined());
}

GenerateResult Pipeline::generate(const GenerateOptions& options) const {
    return std::move(generate(options, 1).front());
}

std::vector<GenerateResult> Pipeline::generate(const GenerateOptions& given, int count) const {
    if (count < 1) throw InvalidArgument(fmt::format("[generate] count must be at least 1, got {}", count));
    if (const std::uint64_t seed = given.sampling.seed; seed + static_cast<std::uint64_t>(count - 1) < seed) {
        throw InvalidArgument(fmt::format("[generate] there are no {} seeds from {} on, the last one is {}",
                                          count, seed, std::numeric_limits<std::uint64_t>::max()));
    }
    const StandardFloats floats;  // of noise levels and timesteps too
    Parts& parts = this->parts();
    const GenerateOptions options = with_defaults(given);
    const SamplingOptions& sampling = options.sampling;
    const CallOf of = {parts.folder, parts.configs[0], parts.vae_shape(), parts.options[0].device};
    check_options(options, of);
    const GivenPictures given_pictures = read_pictures(options, parts.folder);
    check_sample(options, of, given_pictures.first.has_value());
    const LettingGo at_the_end(parts, options.keep);
    Stages stages(options);
    Conditions conditions;
    conditions.prompt = parts.embeddings(options, false, stages);
    if (parts.folder.guides(sampling)) conditions.negative = parts.embeddings(options, true, stages);
    parts.text.let_go(options.keep);
    parts.look_at_pictures(given_pictures, options, conditions, stages);
    if (options.on_preview && has_vae()) {
        const auto vae = stages.run("load vae", [&] { return parts.decoder(); });
        conditions.preview.emplace(*vae);
        parts.vae.let_go(options.keep);
    }
    std::vector<GenerateResult> results = parts.denoise(options, conditions, count, stages);
    if (has_vae() && options.decode) parts.decode(results, options, stages);
    for (GenerateResult& result : results) {
        result.is_latents = has_vae() && !options.decode;
        result.stages = stages.seconds;
    }
    return results;
}

}  // namespace aerogel
