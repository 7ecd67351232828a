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
#include "aerogel/linear.h"
#include "aerogel/load_options.h"
#include "aerogel/sparse_config.h"
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
};

/// Inputs of one forward pass, named as in diffusers, on any device.
struct TransformerInput {
    Tensor hidden_states;                ///< f32 [batch, in_channels, frames, height, width]
    Tensor timestep;                     ///< f32 [batch], or [batch, tokens] with expand_timesteps
    Tensor encoder_hidden_states;        ///< f32 [batch, text_len, text_dim]
    Tensor encoder_hidden_states_image;  ///< f32 [batch, image_len, image_dim] or undefined
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

/// Hooks and settings of one forward pass. Hooks get arrays on the CPU.
struct TransformerStep {
    StepContext context;
    /// What timestep-aware layers do in step context.timestep_index, instead of the rest of `context`.
    const TimestepPolicyConfig* timestep_policy = nullptr;
    const SparseConfig* sparse = nullptr;  ///< null = dense
    SparsePlans* sparse_plans = nullptr;   ///< for mask_refresh_steps; null: nothing is kept
    std::function<void(const std::string& linear, const TensorView& x)> on_linear_input;  ///< calibration
    std::function<void(const AttentionInput& input)> on_attention_input;       ///< calibration, mining
    std::function<void(int block, const TensorView& hidden)> on_block_output;  ///< tests, inspection
    std::function<void(int block, const SparseReport& report)> on_sparse;      ///< reports
};

/// A Linear that can be exchanged, under its name in diffusers' named_modules() ("blocks.0.attn1.to_q");
/// `layer` is null where the model has no such layer.
struct LinearSlot {
    std::string name;
    std::unique_ptr<Linear> layer;
    explicit operator bool() const { return layer != nullptr; }
};

/// An attention module that can be quantized.
struct AttentionSlot {
    std::string name;  ///< "blocks.0.attn1"
    std::int64_t heads = 0;
    std::int64_t head_dim = 0;
    std::optional<AttentionQuantization> quantization;  ///< nullopt: float
};

/// A model of one of the families of src/model/families.cpp, or of one's own. Loaded once, then used from
/// behind a pointer.
class Transformer {
  public:
    /// Loads `folder`, of the family that its config.json names (`_class_name`); a pipeline folder with
    /// transformer/ inside works too. IoError; InvalidArgument for an unknown family and for missing or
    /// misshapen tensors; Unsupported when this build does not know the device.
    static std::unique_ptr<Transformer> load(const std::filesystem::path& folder, Device device = {});
    /// The same, quantized while it is read where `options` say so; errors also as quantize().
    static std::unique_ptr<Transformer> load(const std::filesystem::path& folder, const LoadOptions& options);
    Transformer() = default;
    Transformer(const Transformer&) = delete;
    Transformer& operator=(const Transformer&) = delete;
    virtual ~Transformer() = default;

    const TransformerConfig& config() const { return parts_.config; }
    Device device() const { return parts_.device; }
    /// On the model's device: f32 [batch, out_channels, frames, height, width].
    Tensor forward(const TransformerInput& input, const TransformerStep& step = {}) const;

    /// In the order of diffusers' named_modules().
    std::vector<std::string> linear_names() const;
    const Linear& linear(const std::string& name) const;
    /// InvalidArgument when there is no such layer or the features differ.
    void replace_linear(const std::string& name, std::unique_ptr<Linear> linear);
    std::vector<std::string> attention_names() const;
    /// Heads, and how the module is quantized, sparse calls included (unless SparseConfig asks for a
    /// precision of its own).
    const AttentionSlot& attention(const std::string& name) const;
    /// InvalidArgument when there is no such module, or rotations and scales do not fit its heads.
    void set_attention(const std::string& name, std::optional<AttentionQuantization> quantization);
    /// Patterns of the Linears and the attentions that are quantized unless told otherwise; by default
    /// attention and feed-forward of all blocks, and self-attention, by the names that diffusers gives them.
    virtual std::string_view default_layers() const;
    virtual std::string_view default_attentions() const;

    /// Bytes of all weights as stored on disk (quantized ones at their stored size).
    std::size_t weight_bytes() const;
    /// Memory that a forward pass over so many tokens takes at least, its inputs and output aside.
    virtual double forward_bytes(double tokens) const = 0;
    /// IoError when a file it was loaded from has been shortened since: float weights are views of it.
    virtual void check_intact() const = 0;

  protected:
    /// What a family tells once its weights are there. The slots belong to the derived object.
    struct Parts {
        std::string family;  ///< begins the messages: "wan"
        TransformerConfig config;
        std::vector<LinearSlot*> linears;
        std::vector<AttentionSlot*> attentions;
        std::size_t other_bytes = 0;  ///< stored bytes of the weights that are in no slot
        Device device = {};
    };
    void set_parts(Parts parts) { parts_ = std::move(parts); }

  private:
    /// forward(), with the step's policy already in step.context, the timestep on the CPU and the other
    /// inputs on the model's device. Checks the input.
    virtual Tensor run(const TransformerInput& input, const TransformerStep& step) const = 0;
    LinearSlot& linear_slot(const std::string& name) const;
    AttentionSlot& attention_slot(const std::string& name) const;

    Parts parts_;
};

}  // namespace aerogel
