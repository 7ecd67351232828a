// A native diffusion transformer of any family: its layers, and one forward pass. Activations are
// float32, on the device of the model.
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

#include "aerogel/attention.h"
#include "aerogel/layered_model.h"
#include "aerogel/load_options.h"
#include "aerogel/sparse_config.h"
#include "aerogel/step_cache.h"
#include "aerogel/tensor.h"
#include "aerogel/timestep.h"

namespace aerogel {

/// What every family says about a model, named as in diffusers' config.json.
struct TransformerConfig {
    std::vector<std::int64_t> patch_size = {1, 2, 2};  ///< frames, rows and columns of a token
    std::int64_t num_layers = 40;                      ///< blocks, each with one self-attention
    std::int64_t num_attention_heads = 40;             ///< of a self-attention
    std::int64_t attention_head_dim = 128;
    std::int64_t in_channels = 16;
    std::int64_t out_channels = 16;
    std::int64_t text_dim = 4096;
    bool expand_timesteps = true;  ///< takes a timestep per token too
    bool guidance_embeds = false;  ///< is told the guidance instead of running twice
};

/// Inputs of one forward pass, named as in diffusers, on any device.
struct TransformerInput {
    Tensor hidden_states = {};                ///< f32 [batch, in_channels, frames, height, width]
    Tensor timestep = {};                     ///< f32 [batch], or [batch, tokens] with expand_timesteps
    Tensor encoder_hidden_states = {};        ///< f32 [batch, text_len, text_dim]
    Tensor encoder_hidden_states_image = {};  ///< f32 [batch, image_len, image_dim] or undefined
    Tensor guidance = {};                     ///< f32 [batch], with guidance_embeds; undefined: left out
    /// f32 [batch, channels, frames, height, width] or undefined: joined behind the channels of
    /// hidden_states, which then has fewer than in_channels (image-to-video).
    Tensor condition = {};
};

/// What an attention module computes with: q, k and v as they meet, normed and rotated, each
/// [batch, tokens, heads, head_dim]; valid during the call only.
struct AttentionInput {
    std::string name = {};  ///< of the module, "blocks.0.attn1"
    int block = 0;          ///< index
    bool is_self = false;   ///< over the video's own tokens, and perhaps those of the text
    TensorView q = {}, k = {}, v = {};
    LatentShape latent = {};    ///< the video in tokens
    std::int64_t text_len = 0;  ///< of joint attention: text tokens among those of q, k and v
    bool text_first = true;     ///< they are before the video, else after it
};

/// Hooks and settings of one forward pass. Hooks get arrays on the CPU.
struct TransformerStep {
    StepContext context = {};
    /// What timestep-aware layers do in step context.timestep_index, instead of the rest of `context`.
    const TimestepPolicyConfig* timestep_policy = nullptr;
    const SparseConfig* sparse = nullptr;  ///< null = dense
    SparsePlans* sparse_plans = nullptr;   ///< for mask_refresh_steps; null: nothing is kept
    StepCache* cache = nullptr;            ///< of the passes before; null: all blocks run
    /// Calibration.
    std::function<void(const std::string& linear, const TensorView& x)> on_linear_input = {};
    std::function<void(const AttentionInput& input)> on_attention_input = {};       ///< calibration, mining
    std::function<void(int block, const TensorView& hidden)> on_block_output = {};  ///< tests, inspection
    std::function<void(int block, const SparseReport& report)> on_sparse = {};      ///< reports
};

/// A model of one of the families of src/model/families.cpp, or of one's own.
class Transformer : public LayeredModel {
  public:
    /// Loads `folder`, of the family that its config.json names (`_class_name`); a pipeline folder with
    /// transformer/ inside works too. IoError; InvalidArgument for an unknown family and for missing or
    /// misshapen tensors; Unsupported when this build does not know the device.
    static std::unique_ptr<Transformer> load(const std::filesystem::path& folder, Device device = {});
    /// The same, quantized while it is read where `options` say so; errors also as quantize().
    static std::unique_ptr<Transformer> load(const std::filesystem::path& folder, const LoadOptions& options);

    const TransformerConfig& config() const { return config_; }
    /// On the model's device: f32 [batch, out_channels, frames, height, width].
    Tensor forward(const TransformerInput& input, const TransformerStep& step = {}) const;

    /// Memory that a forward pass over so many tokens takes at least, its inputs and output aside.
    virtual double forward_bytes(double tokens) const = 0;

  protected:
    /// Layers of LayeredModel, and what is a transformer's own.
    struct Parts {
        std::string family;
        TransformerConfig config;
        std::vector<LinearSlot*> linears;
        std::vector<AttentionSlot*> attentions;
        std::size_t other_bytes = 0;
        Device device = {};
    };
    void set_parts(Parts parts);

  private:
    /// forward(), with the step's policy already in step.context, the timestep on the CPU and the other
    /// inputs on the model's device. Checks the input.
    virtual Tensor run(const TransformerInput& input, const TransformerStep& step) const = 0;

    TransformerConfig config_;
};

}  // namespace aerogel
