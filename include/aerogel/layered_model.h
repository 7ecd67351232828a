// A model as quantization, calibration and reports know it: Linears and attentions by name, and bytes.
// layer: model
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/linear.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// A Linear that can be exchanged, under its name in the original's named_modules()
/// ("blocks.0.attn1.to_q"); `layer` is null where the model has no such layer.
struct LinearSlot {
    std::string name = {};
    std::unique_ptr<Linear> layer = {};
    explicit operator bool() const { return layer != nullptr; }
};

/// An attention module that can be quantized.
struct AttentionSlot {
    std::string name = {};  ///< "blocks.0.attn1"
    std::int64_t heads = 0;
    std::int64_t head_dim = 0;
    std::optional<AttentionQuantization> quantization = {};  ///< nullopt: float
};

struct OriginalName;

/// What transformers and text encoders share. Loaded once, then used from behind a pointer.
class LayeredModel {
  public:
    LayeredModel() = default;
    LayeredModel(const LayeredModel&) = delete;
    LayeredModel& operator=(const LayeredModel&) = delete;
    virtual ~LayeredModel() = default;

    Device device() const { return layers_.device; }
    /// In the order of the original's named_modules().
    std::vector<std::string> linear_names() const;
    const Linear& linear(const std::string& name) const;
    /// Returns the layer that was there. InvalidArgument when there is no such layer or the features differ.
    std::unique_ptr<Linear> replace_linear(const std::string& name, std::unique_ptr<Linear> linear);
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

    /// The schemes of LoadOptions::automatic, of eight and of four bits, and a pattern of the Linears outside
    /// of default_layers() that follow where that is not enough (as W8A16 or W4A16); empty: none.
    struct AutomaticSchemes {
        std::string_view eight_bits = "W8A8_DYNAMIC";
        std::string_view four_bits = "W4A8";
        std::string_view further_layers = {};
    };
    virtual AutomaticSchemes automatic_schemes() const { return {}; }

    /// Names that its Linears have elsewhere, for files of other programs (quant/original_names.h).
    virtual std::span<const OriginalName> original_names() const;

    /// Linear::move_weight() of every Linear, which is all but some vectors and tables, which stay where they
    /// are. No call may be running.
    void move_weights(WeightPlace place);

    /// Bytes of all weights as stored on disk (quantized ones at their stored size).
    std::size_t weight_bytes() const;
    /// IoError when a file it was loaded from has been shortened since. Float weights are read from it when
    /// they are first used, and asked about then as well.
    virtual void check_intact() const = 0;

  protected:
    /// What a model tells once its weights are there. The slots belong to the derived object.
    struct Layers {
        std::string family;  ///< begins the messages: "wan"
        std::vector<LinearSlot*> linears;
        std::vector<AttentionSlot*> attentions;
        std::size_t other_bytes = 0;  ///< stored bytes of the weights that are in no slot
        Device device = {};
    };
    void set_layers(Layers layers) { layers_ = std::move(layers); }

  private:
    LinearSlot& linear_slot(const std::string& name) const;
    AttentionSlot& attention_slot(const std::string& name) const;

    Layers layers_;
};

}  // namespace aerogel
