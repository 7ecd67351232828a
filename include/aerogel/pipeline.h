// From a caption to a video: text conditioning, noise, sampling steps with classifier-free guidance.
// layer: model
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/cancellation.h"
#include "aerogel/error.h"
#include "aerogel/sampler.h"
#include "aerogel/transformer.h"

namespace aerogel {

/// Maps a caption to embeddings with the learned tables of a pipeline folder's text_encoder/. A caption is
/// a list of objects separated by commas, each a few words; object i fills the slots from
/// i * slots_per_object on, all other slots hold the padding word. A slot's embedding is the row of its word
/// plus the row of the slot. "groups" in vocabulary.json, lists of slots, sums each of them up to one
/// embedding per object: [[0, 1], [0, 2, 3]].
class TextEncoder {
  public:
    /// Reads vocabulary.json and model.safetensors. IoError / InvalidArgument.
    static TextEncoder load(const std::filesystem::path& folder);
    /// f32 [1, max_length, text_dim], or with groups [1, max_objects * groups, text_dim]. InvalidArgument
    /// naming the known words on an unknown word, or the limit on too many objects or words. "" is the null
    /// caption.
    Tensor encode(const std::string& caption) const;

  private:
    std::vector<std::string> words_;
    std::int64_t max_length_ = 0;
    std::int64_t slots_per_object_ = 0;
    std::size_t max_objects_ = 0;
    std::int64_t pad_ = 0;
    std::vector<std::vector<std::int64_t>> sums_;  // the slots of each embedding
    Tensor word_embedding_;
    Tensor position_embedding_;
};

/// How videos are sampled, by generation, calibration and mining alike; what is not set comes from the
/// pipeline folder.
struct SamplingOptions {
    std::optional<int> frames;
    std::optional<int> height;
    std::optional<int> width;
    std::optional<int> steps;
    std::optional<double> guidance;  ///< 1 = none (one forward pass per step)
    std::optional<double> shift;
    std::optional<SamplerKind> sampler;
    std::uint64_t seed = 0;  ///< of the (first) video's noise; the next one takes the next seed
    /// Makes the first frame in a pass of its own from the caption, densely, before the others, if there are
    /// any; not where one is given.
    std::optional<bool> image_first;
    /// In [0, 1). Frames start one after the other: the last one after this share of the steps, each then
    /// takes the same number of steps, and a frame sees clearer ones before it. For models trained with noise
    /// levels per frame (Diffusion Forcing, arXiv 2407.01392; `ar_step` of SkyReels-V2). 0: all frames
    /// together.
    std::optional<double> stagger;
};

/// Settings of one video.
struct GenerateOptions {
    std::string prompt;
    std::string negative_prompt;
    Tensor prompt_embeds;           ///< f32 [1, text_len, text_dim] instead of `prompt`
    Tensor negative_prompt_embeds;  ///< the same for guidance
    SamplingOptions sampling;
    /// f32 [channels, frames of one patch, height, width]: this part of the video is given. Its tokens keep
    /// it and timestep 0 in every step, as in Wan 2.2's text-and-image-to-video model (diffusers:
    /// expand_timesteps).
    Tensor first_frame;
    std::optional<SparseConfig> sparse;
    /// What timestep-aware layers do in each step; unset: what they hold decides.
    std::optional<TimestepPolicyConfig> timestep_policy;
    /// Called after each step with the number of steps done (0 while the first frame is made);
    /// return false to stop (generate() then throws Cancelled).
    std::function<bool(int step, int steps, double seconds)> progress;
    /// Passed on to every forward pass, see TransformerStep (calibration, mining).
    std::function<void(const std::string& linear, int step, const TensorView& x)> on_linear_input;
    std::function<void(int step, const AttentionInput& input)> on_attention_input;
};

/// A sparse call of one step and block.
struct SparseCall {
    int step = 0;
    int block = 0;
    bool conditional = true;  ///< false: the guidance pass without the caption
    SparseReport report;
};

struct GenerateResult {
    Tensor video;  ///< f32 [out_channels, frames, height, width]; pixels in [-1, 1] for a pixel-space model
    std::vector<double> step_seconds;
    double first_frame_seconds = 0.0;  ///< image_first: seconds of the pass for the first frame
    std::vector<SparseCall> sparse_calls;
};

/// A folder with transformer/, and optionally text_encoder/, scheduler/ and model_index.json.
class Pipeline {
  public:
    /// The transformer on `device`; results are on the CPU. As Transformer::load.
    static Pipeline load(const std::filesystem::path& folder, Device device = {});
    static Pipeline load(const std::filesystem::path& folder, const LoadOptions& options);
    /// The same with another transformer than that of the folder, of a family of one's own perhaps.
    static Pipeline load(const std::filesystem::path& folder, std::unique_ptr<Transformer> transformer);

    Transformer& transformer() { return *transformer_; }
    const Transformer& transformer() const { return *transformer_; }
    bool has_text_encoder() const { return text_encoder_.has_value(); }
    /// `options` with what is unset in `sampling` filled in from the folder; sizes that it does not know stay
    /// unset.
    GenerateOptions with_defaults(GenerateOptions options) const;
    /// InvalidArgument on sizes that the patch size does not divide, a first frame of another size, a prompt
    /// without text encoder ...
    GenerateResult generate(const GenerateOptions& options) const;

  private:
    explicit Pipeline(std::unique_ptr<Transformer> transformer) : transformer_(std::move(transformer)) {}
    std::unique_ptr<Transformer> transformer_;
    std::optional<TextEncoder> text_encoder_;
    SamplingOptions defaults_;
};

}  // namespace aerogel
