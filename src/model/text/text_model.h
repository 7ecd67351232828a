// The text encoders of transformers: ids of tokens to hidden states, in float32, on the device of the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/linear.h"
#include "aerogel/safetensors.h"
#include "aerogel/tensor.h"
#include "aerogel/transformer.h"

namespace aerogel {

class TextModel {
  public:
    /// From a folder with config.json and model.safetensors (or its index.json and shards), of the class that
    /// config.json names in `architectures`. InvalidArgument for an unknown class, keys that are wrong, and
    /// missing or misshapen tensors; IoError.
    static std::unique_ptr<TextModel> load(const std::filesystem::path& folder, Device device = {});
    TextModel() = default;
    TextModel(const TextModel&) = delete;
    TextModel& operator=(const TextModel&) = delete;
    virtual ~TextModel() = default;

    std::int64_t dim() const { return parts_.final_norm.dim(0); }
    std::int64_t layers() const { return parts_.layers; }
    /// Ids are below it.
    std::int64_t vocabulary() const { return parts_.embeddings.dim(0); }
    Device device() const { return parts_.device; }

    /// The hidden states of these layers, each f32 [1, ids, dim], as transformers' hidden_states: layer 0 is
    /// the embeddings, n the output of n blocks, and layers() that of all, normed. Ids from real_length on
    /// are padding: no other token sees them. Blocks behind the highest layer do not run. InvalidArgument for
    /// ids, lengths and layers that do not exist, and when a result is not finite.
    std::vector<Tensor> hidden_states(std::span<const std::int32_t> ids, std::int64_t real_length,
                                      std::span<const std::int64_t> layers,
                                      const StepContext& step = {}) const;

    /// By their names in the files, in the order of transformers' named_modules().
    std::vector<std::string> linear_names() const;
    const Linear& linear(const std::string& name) const;
    /// InvalidArgument when there is no such layer or the features differ.
    void replace_linear(const std::string& name, std::unique_ptr<Linear> linear);
    /// Bytes of all weights as stored on disk (quantized ones at their stored size).
    std::size_t weight_bytes() const;
    /// IoError when a file it was loaded from has been shortened since: float weights are views of it.
    void check_intact() const;

  protected:
    /// What a model tells once its weights are there. The slots belong to the derived object.
    struct Parts {
        std::string family;  ///< begins the messages: "qwen3"
        std::int64_t layers = 0;
        Tensor embeddings;  ///< [vocabulary, dim] as stored, on the CPU
        Tensor final_norm;  ///< [dim], RMS
        float epsilon = 1e-6F;
        std::vector<LinearSlot*> linears;
        std::size_t other_bytes = 0;  ///< stored bytes of the weights that are in no slot
        Device device = {};
        std::vector<SafetensorsFile> files;
    };
    void set_parts(Parts parts) { parts_ = std::move(parts); }

    /// The tokens of one call.
    struct Pass {
        MutableView hidden;  ///< [tokens, dim]
        std::int64_t real_length;
        const StepContext& step;
    };

  private:
    /// Runs the first `blocks` blocks on pass.hidden, in place, with after(n) when n of them are done.
    virtual void run(const Pass& pass, std::int64_t blocks,
                     const std::function<void(std::int64_t)>& after) const = 0;
    LinearSlot& slot(const std::string& name) const;

    Parts parts_;
};

}  // namespace aerogel
