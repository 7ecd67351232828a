// The text encoders of transformers: ids of tokens to hidden states, in float32, on the device of the model.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aerogel/layered_model.h"
#include "aerogel/linear.h"
#include "aerogel/load_options.h"
#include "aerogel/tensor.h"
#include "ops/elementwise.h"
#include "quant/weight_file.h"

namespace aerogel {

/// What the blocks of all text encoders are made of: attention and a gated feed-forward, each behind an RMS
/// norm and added to what came in.
struct TextBlock {
    Tensor attention_norm, ffn_norm;
    LinearSlot q, k, v, o, gate, up, down;

    std::array<LinearSlot*, 7> linears() { return {&q, &k, &v, &o, &gate, &up, &down}; }
};

/// The Linears of the blocks; heads and vision towers, which files may hold too, are none of them. `layers`
/// are those of language models and of CLIP, by the names in the files of several versions of transformers.
inline constexpr std::string_view kTextLayers =
    "{{,model.,text_model.encoder.,{,model.}language_model.{,model.}}layers.*,"
    "*SelfAttention.q,*SelfAttention.k,*SelfAttention.v,*SelfAttention.o,*DenseReluDense.*}";

/// What files may hold beside the text encoder and is not read: heads and vision towers.
inline constexpr std::string_view kTextUnused = "{lm_head,visual,model.visual}.*";

/// Weight-only: hidden states of language models have values far from all others.
inline constexpr LayeredModel::AutomaticSchemes kTextSchemes = {"W8A16", "W4A16"};

class TextModel : public LayeredModel {
  public:
    /// From a folder with config.json and model.safetensors (or its index.json and shards), of the class that
    /// config.json names in `architectures`. InvalidArgument for an unknown class, keys that are wrong, and
    /// missing or misshapen tensors; IoError; as quantize() where `options` want it quantized.
    static std::unique_ptr<TextModel> load(const std::filesystem::path& folder,
                                           const LoadOptions& options = {});
    std::int64_t dim() const { return parts_.final_norm.dim(0); }
    std::int64_t layers() const { return parts_.layers; }
    /// Ids are below it.
    std::int64_t vocabulary() const { return parts_.embeddings.dim(0); }

    /// The hidden states of these layers, each f32 [1, ids, dim], as transformers' hidden_states: layer 0 is
    /// the embeddings, n the output of n blocks, and layers() that of all, normed. Ids from real_length on
    /// are padding: no other token sees them. Blocks behind the highest layer do not run. InvalidArgument for
    /// ids, lengths and layers that do not exist, and when a result is not finite.
    std::vector<Tensor> hidden_states(std::span<const std::int32_t> ids, std::int64_t real_length,
                                      std::span<const std::int64_t> layers,
                                      const StepContext& step = {}) const;

    /// All Linears of the blocks.
    std::string_view default_layers() const override;
    AutomaticSchemes automatic_schemes() const override { return kTextSchemes; }
    std::string_view default_attentions() const override { return {}; }
    void check_intact() const override;

  protected:
    /// Layers of LayeredModel, and what is a text model's own.
    struct Parts {
        std::string family;
        std::int64_t layers = 0;
        Tensor embeddings;  ///< [vocabulary, dim] as stored, on the CPU
        Tensor final_norm;  ///< [dim], RMS
        float epsilon = 1e-6F;
        std::vector<LinearSlot*> linears;
        std::size_t other_bytes = 0;
        Device device = {};
        std::vector<WeightFile> files;
    };
    void set_parts(Parts parts);

    /// The tokens of one call.
    struct Pass {
        MutableView hidden;  ///< [tokens, dim]
        std::int64_t real_length;
        const StepContext& step;
    };

    /// The arrays of a pass, rows of tokens: they serve all blocks, which are of one shape.
    struct Buffers {
        Tensor normed, q, k, v, o, gate, up;

        Buffers(const TextBlock& block, const Pass& pass);
    };
    /// q, k and v of the normed hidden states.
    void project(const TextBlock& block, const Pass& pass, Buffers& buffers) const;
    /// Adds the projection of o to the hidden states.
    void add_attention(const TextBlock& block, const Pass& pass, Buffers& buffers) const;
    void feed_forward(const TextBlock& block, ActivationFunction activation, const Pass& pass,
                      Buffers& buffers) const;
    /// RMS norm of rows with the epsilon of the model.
    void normalize(const TensorView& x, const Tensor& weight, const MutableView& y, const Pass& pass) const;

  private:
    /// Runs the first `blocks` blocks on pass.hidden, in place, with after(n) when n of them are done.
    virtual void run(const Pass& pass, std::int64_t blocks,
                     const std::function<void(std::int64_t)>& after) const = 0;

    Parts parts_;
};

}  // namespace aerogel
