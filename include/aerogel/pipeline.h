// From a caption to a picture or a video: text, noise, sampling steps with guidance, decoding.
// layer: model
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aerogel/cancellation.h"
#include "aerogel/error.h"
#include "aerogel/load_options.h"
#include "aerogel/sampler.h"
#include "aerogel/transformer.h"

namespace aerogel {

/// How videos are sampled, by generation, calibration and mining alike; what is not set comes from the
/// pipeline folder.
struct SamplingOptions {
    /// Sizes are pixels where the folder has a VAE, else those of the transformer's sample.
    std::optional<int> frames = {};
    std::optional<int> height = {};
    std::optional<int> width = {};
    std::optional<int> steps = {};
    /// The number that diffusers' pipeline takes. 1 or less = none (one forward pass per step); Z-Image: 0 =
    /// none.
    std::optional<double> guidance = {};
    std::optional<double> guidance_2 = {};  ///< of the second expert; default: guidance
    std::optional<double> shift = {};  ///< default: the scheduler's, by the number of tokens where it says so
    std::optional<SamplerKind> sampler = {};
    std::uint64_t seed = 0;  ///< of the (first) video's noise; the next one takes the next seed
    /// Makes the first frame in a pass of its own from the caption, densely, before the others, if there are
    /// any; not where one is given.
    std::optional<bool> image_first = {};
    /// In [0, 1). Frames start one after the other: the last one after this share of the steps, each then
    /// takes the same number of steps, and a frame sees clearer ones before it. For models trained with noise
    /// levels per frame (Diffusion Forcing, arXiv 2407.01392; `ar_step` of SkyReels-V2). 0: all frames
    /// together.
    std::optional<double> stagger = {};
    /// Steps that leave blocks of the transformer out; passes with and without the caption decide by
    /// themselves.
    StepCacheConfig cache = {};
};

/// What becomes of a component of a pipeline when its turn is over.
enum class Keep : std::uint8_t {
    on_device,
    /// On a GPU: its packed weights wait in host memory, and come back by one copy when its next turn begins;
    /// the GPU holds one component at a time. On the CPU they are there already.
    in_host_memory,
    /// The next turn loads it anew, without what was changed by hand: memory holds one component at a time.
    nothing
};

/// Settings of one video. Its functions are called on the thread of generate(); what they throw ends it and
/// passes through.
struct GenerateOptions {
    std::string prompt = {};  ///< UTF-8
    std::string negative_prompt = {};
    Tensor prompt_embeds = {};           ///< f32 [1, text_len, text_dim] instead of `prompt`
    Tensor negative_prompt_embeds = {};  ///< the same for guidance
    SamplingOptions sampling = {};
    /// A picture (.png, .jpg, .webp) that the video begins with, resized to its size: for image-to-video
    /// models (WanImageToVideoPipeline, where one must be given) and those whose model_index.json says
    /// expand_timesteps.
    std::filesystem::path image = {};
    /// The picture that the video of an image-to-video model ends with; empty: none.
    std::filesystem::path last_image = {};
    /// f32 [channels, frames of one patch, height, width]: this part of the video is given. Its tokens keep
    /// it and timestep 0 in every step, as in Wan 2.2's text-and-image-to-video model (diffusers:
    /// expand_timesteps).
    Tensor first_frame = {};
    std::optional<SparseConfig> sparse = {};
    /// What timestep-aware layers do in each step; unset: what they hold decides.
    std::optional<TimestepPolicyConfig> timestep_policy = {};
    /// The policy of policy_static_from(transformer, step), in place of `timestep_policy`.
    std::optional<int> first_static_step = {};
    bool decode = true;  ///< false: the result is latents, and no VAE is loaded
    Keep keep = Keep::on_device;
    /// Where there is a VAE: a small picture f32 [3, 1, rows, columns] in [-1, 1], a pixel for each place of
    /// the latents of the middle frame, of what the video will be as far as the model knows in this step
    /// (0-based).
    std::function<void(int step, const Tensor& picture)> on_preview = {};
    int preview_every = 1;  ///< steps from one preview to the next
    /// Called when a part of the work begins ("load text_encoder", "encode prompt", "load vae", "encode
    /// image", "load image_encoder", "look at image", "load transformer", "denoise", "load transformer_2" in
    /// its middle, "decode") and as it advances, with the share that is done; return false to stop. It must
    /// not call the pipeline.
    std::function<bool(std::string_view stage, double done)> on_stage = {};
    /// Called after each step with the seconds it took, without its preview, and the number of steps done, of
    /// all steps of all videos (0 while a first frame is made); return false to stop (generate() then throws
    /// Cancelled).
    std::function<bool(int step, int steps, double seconds)> progress = {};
    /// Called before every forward pass with the caption (not before those of the guidance).
    std::function<void(int step, const TransformerInput& input)> on_transformer_input = {};
    /// Passed on to every forward pass, see TransformerStep (calibration, mining).
    std::function<void(const std::string& linear, int step, const TensorView& x)> on_linear_input = {};
    std::function<void(int step, const AttentionInput& input)> on_attention_input = {};
};

/// A sparse call of one step and block.
struct SparseCall {
    int step = 0;
    int block = 0;
    bool conditional = true;  ///< false: the guidance pass without the caption
    SparseReport report = {};
};

/// How long a part of the work took.
struct StageSeconds {
    std::string stage = {};
    double seconds = 0.0;
};

/// A pass that left blocks out.
struct CachedPass {
    int step = 0;
    bool conditional = true;
};

struct GenerateResult {
    /// f32 [channels, frames, height, width]: pixels in [-1, 1], or latents where there is no VAE or
    /// GenerateOptions::decode is false.
    Tensor video = {};
    bool is_latents = false;
    std::vector<StageSeconds> stages = {};  ///< in the order in which they ended; of the whole call
    std::vector<double> step_seconds = {};
    double first_frame_seconds = 0.0;  ///< image_first: seconds of the pass for the first frame
    std::size_t weight_bytes = 0;      ///< of the transformers that ran, as stored
    std::vector<SparseCall> sparse_calls = {};
    std::vector<CachedPass> cached_passes = {};  ///< with SamplingOptions::cache, in order
};

/// A folder of diffusers: model_index.json, transformer/ (and transformer_2/), and optionally text_encoder/
/// with tokenizer/, vae/ and scheduler/. Calls may come from several threads.
class Pipeline {
  public:
    /// Reads what the folder says; components are loaded by the first call that needs them. `options` are of
    /// transformer/, `text_encoder` of the text encoder, `transformer_2` of the second expert (experts()):
    /// unset, it is loaded as the first one, with its folder's own weights and no LoRA. A pair is of one
    /// transformer, so where `options` have one, `transformer_2` has to have another. Both are on one device,
    /// that of `options`: the device of `transformer_2` is the same or left at its default. InvalidArgument,
    /// Unsupported for a class or a setting that Aerogel does not have, IoError; tensors of transformers,
    /// LoRA and VAE that are missing or do not fit are found here too.
    static Pipeline load(const std::filesystem::path& folder, const LoadOptions& options,
                         const LoadOptions& text_encoder = {},
                         const std::optional<LoadOptions>& transformer_2 = std::nullopt);
    static Pipeline load(const std::filesystem::path& folder, Device device = {});
    /// The same with another transformer (not null) than that of the folder, of a family of one's own
    /// perhaps. The other components are loaded on its device.
    static Pipeline load(const std::filesystem::path& folder, std::unique_ptr<Transformer> transformer);
    /// What is moved from gives InvalidArgument.
    Pipeline(Pipeline&&) noexcept;
    Pipeline& operator=(Pipeline&&) noexcept;
    ~Pipeline();

    /// Experts: 1, or 2 where transformer_2 takes over at low noise (boundary_ratio, as in Wan 2.2).
    int experts() const;
    /// Loaded when it was not yet, and on its device until generate() with another Keep than on_device. The
    /// reference is valid until one with Keep::nothing.
    Transformer& transformer(int expert = 0) { return loaded(expert); }
    const Transformer& transformer(int expert = 0) const { return loaded(expert); }
    /// Of the transformer, of the first of two experts; nothing is loaded for it.
    const TransformerConfig& transformer_config() const;
    bool has_text_encoder() const;
    bool has_vae() const;
    double frames_per_second() const;  ///< of the videos that the model makes
    /// `options` with what is unset in `sampling` filled in from the folder; sizes that it does not know stay
    /// unset.
    GenerateOptions with_defaults(GenerateOptions options) const;
    /// Whether generate() runs passes without the caption, or with the negative one.
    bool guides(const GenerateOptions& options) const;
    /// Whether it runs the text encoder.
    bool encodes_text(const GenerateOptions& options) const;
    /// InvalidArgument on sizes that the model cannot make, a first frame of another size, a prompt without
    /// text encoder ...
    GenerateResult generate(const GenerateOptions& options) const;
    /// `count` videos of one caption, the first with the seed of `options`, each other one with the next:
    /// text is encoded once, and all are denoised before the first is decoded. Where there are two experts,
    /// all take the steps of the first one before any takes those of the second; with image_first so do the
    /// passes for the first frames, which come before them.
    std::vector<GenerateResult> generate(const GenerateOptions& options, int count) const;

  private:
    struct Parts;
    class LettingGo;
    explicit Pipeline(std::unique_ptr<Parts> parts);
    Parts& parts() const;
    Transformer& loaded(int expert) const;
    std::unique_ptr<Parts> parts_;
};

}  // namespace aerogel
