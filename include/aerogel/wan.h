// The native DiT of the Wan architecture (diffusers' WanTransformer3DModel), float32 activations.
// layer: model
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/linear.h"
#include "aerogel/sparse_attention.h"
#include "aerogel/sparse_profile.h"
#include "aerogel/tensor.h"
#include "aerogel/timestep.h"

namespace aerogel {

/// The fields of diffusers' config.json, same names and defaults.
struct WanConfig {
    std::vector<std::int64_t> patch_size = {1, 2, 2};
    std::int64_t num_attention_heads = 40;
    std::int64_t attention_head_dim = 128;
    std::int64_t in_channels = 16;
    std::int64_t out_channels = 16;
    std::int64_t text_dim = 4096;
    std::int64_t freq_dim = 256;
    std::int64_t ffn_dim = 13824;
    std::int64_t num_layers = 40;
    bool cross_attn_norm = true;
    std::optional<std::string> qk_norm = "rms_norm_across_heads";
    float eps = 1e-6F;
    std::optional<std::int64_t> image_dim;
    std::optional<std::int64_t> added_kv_proj_dim;
    std::int64_t rope_max_seq_len = 1024;
    std::optional<std::int64_t> pos_embed_seq_len;

    /// Reads config.json; InvalidArgument on missing, wrong or unknown-class content.
    static WanConfig read(const std::filesystem::path& path);
    std::int64_t inner_dim() const { return num_attention_heads * attention_head_dim; }
};

/// Inputs of one forward pass, as in diffusers.
struct WanInput {
    Tensor hidden_states;                ///< f32 [batch, in_channels, frames, height, width]
    Tensor timestep;                     ///< f32 [batch], or [batch, tokens] (Wan2.2 per-token timesteps)
    Tensor encoder_hidden_states;        ///< f32 [batch, text_len, text_dim]
    Tensor encoder_hidden_states_image;  ///< f32 [batch, image_len, image_dim] or undefined
};

/// Sparse self-attention during sampling.
struct SparseConfig {
    SparseOptions options;         ///< latent_shape and txt_len are filled in by the model
    int start_step = 0;            ///< dense before this step
    int end_step = -1;             ///< dense from this step on; -1 = never
    std::vector<int> skip_layers;  ///< dense blocks
    /// Masks (rf_v1: head types) are chosen anew every so many steps and kept in between, see SparseMemory.
    int mask_refresh_steps = 1;
    std::shared_ptr<const SparseProfile> profile;  ///< rf_v1: pins the head types, nothing is recognised
};

/// What the self-attentions of one sequence of passes decided: one per caption, kept from step to step.
struct SparseMemory {
    struct Entry {
        int step = -1;  ///< in which it was decided; -1: never
        std::vector<HeadType> head_types;
        Tensor mask;
    };
    std::vector<Entry> blocks;
};

/// What an attention module computes with: q, k and v as they meet, normed and rotated, each
/// [batch, tokens, heads, head_dim]; valid during the call only.
struct AttentionInput {
    std::string name;      ///< of the module, "blocks.0.attn1"
    int block = 0;         ///< index
    bool is_self = false;  ///< attn1, over the video's own tokens
    TensorView q, k, v;
    LatentShape latent;  ///< the video in tokens
};

/// Hooks and settings of one forward pass.
struct WanStep {
    StepContext context;
    /// What timestep-aware layers do in step context.timestep_index, instead of the rest of `context`.
    const TimestepPolicyConfig* timestep_policy = nullptr;
    const SparseConfig* sparse = nullptr;   ///< null = dense
    SparseMemory* sparse_memory = nullptr;  ///< for mask_refresh_steps; null: nothing is kept
    std::function<void(const std::string& linear, const TensorView& x)> on_linear_input;  ///< calibration
    std::function<void(const AttentionInput& input)> on_attention_input;       ///< calibration, mining
    std::function<void(int block, const TensorView& hidden)> on_block_output;  ///< tests, inspection
    std::function<void(int block, const SparseReport& report)> on_sparse;      ///< reports
};

class WanTransformer {
  public:
    /// Loads `folder` with config.json and diffusion_pytorch_model.safetensors (or its index.json and
    /// shards); a pipeline folder with transformer/ inside works too. IoError / InvalidArgument (missing or
    /// misshapen tensor).
    static WanTransformer load(const std::filesystem::path& folder);
    WanTransformer(WanTransformer&&) noexcept;
    WanTransformer& operator=(WanTransformer&&) noexcept;
    ~WanTransformer();

    const WanConfig& config() const;
    /// f32 [batch, out_channels, frames, height, width].
    Tensor forward(const WanInput& input, const WanStep& step = {}) const;

    /// Names of the Linear layers as diffusers' named_modules() gives them ("blocks.0.attn1.to_q", ...).
    std::vector<std::string> linear_names() const;
    const Linear& linear(const std::string& name) const;
    /// InvalidArgument when there is no such layer or the features differ.
    void replace_linear(const std::string& name, std::unique_ptr<Linear> linear);
    /// Names of the attention modules: "blocks.0.attn1" (self), "blocks.0.attn2" (cross), ...
    std::vector<std::string> attention_names() const;
    /// How a module is quantized, sparse calls included (unless SparseConfig asks for a precision of its
    /// own); nullopt = float. The image tokens of attn2 stay float.
    const std::optional<AttentionQuantization>& attention(const std::string& name) const;
    /// InvalidArgument when there is no such module, or rotations and scales do not fit its heads.
    void set_attention(const std::string& name, std::optional<AttentionQuantization> quantization);
    /// IoError when a file it was loaded from has been shortened since: float weights are views of it.
    void check_intact() const;
    /// Bytes of all weights as stored on disk (quantized ones at their stored size).
    std::size_t weight_bytes() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
    explicit WanTransformer(std::unique_ptr<State> state);
};

}  // namespace aerogel
