// Where the weights of a model come from: safetensors (quantized checkpoints of other programs too), GGUF or
// tensors in memory, under the names that diffusers gives them or under those of the model's own code, as
// ComfyUI's and stable-diffusion.cpp's files have them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/quantized_linear.h"
#include "aerogel/safetensors.h"
#include "quant/original_names.h"

namespace aerogel {

/// True when a file with these tensors has the names of that code.
bool has_names_of(const OriginalNames& code, const std::vector<std::string>& stored);

class WeightFile {
  public:
    /// A .gguf, .safetensors or .safetensors.index.json file. IoError, InvalidArgument, Unsupported as their
    /// readers; InvalidArgument also when two tensors get the same name.
    static WeightFile open(const std::filesystem::path& path, const OriginalNames& original = {});

    /// A file that is open, or tensors in memory, under its own names.
    static WeightFile of(SafetensorsFile file);

    /// The same file, as open() would give it with these names.
    WeightFile renamed(const OriginalNames& original) const;

    const std::vector<std::string>& names() const;
    bool contains(const std::string& name) const;
    /// Type and shape of what tensor() gives: f32 where it is dequantized, as blocks of GGUF and the layers
    /// of a quantized checkpoint (quant/foreign/foreign.h) are.
    const TensorInfo& info(const std::string& name) const;
    std::size_t stored_bytes(const std::string& name) const;
    /// True when the tensor can be taken in this shape. Safetensors: its own. GGUF drops leading axes of size
    /// 1 and joins axes of those that have more than four, so a matrix may also come from a kernel with as
    /// many rows, and what has more axes must have as many elements.
    bool fits(const std::string& name, const Shape& shape) const;
    /// A view of the mapped file where it can be, else a fresh array.
    Tensor tensor(const std::string& name) const;
    /// How the file holds it: "Q8_0", "f32", or of a layer of a quantized checkpoint what it is here,
    /// "W8A8_DYNAMIC_CONVROT".
    std::string stored_type(const std::string& name) const;
    /// A matrix of a GGUF type that is a format of ours, as it is stored (formats/gguf_blocks.h).
    std::optional<QuantizedTensor> quantized(const std::string& name) const;
    /// The layer, without bias, whose weight has this name, of a quantized checkpoint. nullopt for others,
    /// and where halves of a weight change places.
    std::optional<QuantizedLinearWeights> foreign_layer(const std::string& name) const;
    /// Who quantized the checkpoint, "ComfyUI"; empty for other files.
    std::string_view program() const;
    void prefetch(const std::string& name) const;
    void release(const std::string& name) const;
    /// IoError when a file has been shortened since it was opened; nothing for a WeightFile that is none.
    void check_intact() const;
    const std::filesystem::path& path() const;
    /// The file, or all the shards of an index; none for tensors in memory.
    std::vector<std::filesystem::path> files() const;

  private:
    struct State;
    static WeightFile named(std::shared_ptr<State> state, const OriginalNames& original);
    std::shared_ptr<const State> state_;
};

}  // namespace aerogel
