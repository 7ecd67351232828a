// Reading a quantized pair or the quantized checkpoint of another program. A pair is: the description JSON
// and the safetensors file that belongs to it, in the forms that both known exporters write (they differ in
// dtypes, in which scales are stored and in how a smoothed layer is named).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/description.h"
#include "aerogel/quantized_linear.h"
#include "aerogel/safetensors.h"
#include "quant/foreign/foreign.h"

namespace aerogel {

/// A layer that the description quantizes.
struct QuantizedLayer {
    std::string name;        ///< of the module in the float model
    std::string prefix;      ///< of its tensors: the name, or name + ".linear" beside name + ".div.mul_scale"
    std::string quant_type;  ///< upper case; may be one that nothing here computes yet
    std::vector<std::string> tensors = {};  ///< of a checkpoint of another program: all but the bias
    std::int64_t foreign = -1;              ///< its place in that checkpoint; -1: a layer of a pair
    std::size_t part = 0, parts = 1;  ///< which rows of what is stored it is, where that is several layers
    std::vector<std::string> missing = {};  ///< tensors that the description lists and the file lacks

    /// That of its weight in the file, and the layer's name in restored files.
    std::string weight_tensor() const { return foreign < 0 ? prefix + ".weight" : tensors.front(); }
    const std::string& restored_name() const { return foreign < 0 ? name : prefix; }
};

/// An attention module that the description quantizes.
struct StoredAttention {
    std::string name;
    std::string quant_type;  ///< upper case; may be one that nothing here computes yet
};

/// Names of all tensors that may belong to a layer.
std::vector<std::string> tensors_of(const QuantizedLayer& layer);

class QuantizedPair {
  public:
    /// `path`: a description, or a folder with one. rank >= 0 takes the description of that rank: the
    /// digits behind the last "_" are replaced, or "_<rank>" is added. A .safetensors or
    /// .safetensors.index.json: a checkpoint of another program (foreign/foreign.h); its layers are then
    /// listed without what that puts in front of all names. IoError / InvalidArgument.
    static QuantizedPair open(const std::filesystem::path& path, int rank = -1);

    const std::filesystem::path& path() const { return path_; }
    /// "ComfyUI"; empty for pairs.
    std::string_view program() const { return foreign_.program; }
    /// Tensors of such a checkpoint that hold nothing else.
    const std::vector<std::string>& marks() const { return foreign_.marks; }
    const QuantDescription& description() const { return description_; }
    const SafetensorsFile& weights() const { return weights_; }
    const std::vector<QuantizedLayer>& layers() const { return layers_; }
    const std::vector<StoredAttention>& attentions() const { return attentions_; }
    /// Its tensors in the weight file.
    std::vector<std::string> tensors_of(const StoredAttention& attention) const;
    /// Rotations or calibrated scales of one. InvalidArgument as for layers; Unsupported for a type that is
    /// not supported. heads and head_dim: of the module, where the caller knows, else 0; k and v may have a
    /// divisor of q's heads.
    AttentionQuantization read(const StoredAttention& attention, std::int64_t heads = 0,
                               std::int64_t head_dim = 0, std::int64_t kv_heads = 0) const;

    /// The arrays of one layer. InvalidArgument naming file, tensor, expected and got; Unsupported for a
    /// scheme that is not supported. The result fits check_layer(). `in_features`: of the layer, where the
    /// caller knows; four-bit weights do not always tell (see int4_columns), 0 = find out.
    QuantizedLinearWeights read(const QuantizedLayer& layer, std::int64_t in_features = 0) const;
    /// Gives layers of such a checkpoint the names that a model has for them. `names_of(name)`: of the layers
    /// that its rows are, one after the other, as many each; none: it keeps its name.
    void rename_layers(const std::function<std::vector<std::string>(const std::string& name)>& names_of);
    /// Bytes of the layer's tensors in the file.
    std::size_t stored_bytes(const QuantizedLayer& layer) const;

  private:
    QuantizedPair(std::filesystem::path path, QuantDescription description, SafetensorsFile weights);
    explicit QuantizedPair(SafetensorsFile weights) : weights_(std::move(weights)) {}
    static bool is_checkpoint(const std::filesystem::path& path);
    static QuantizedPair open_checkpoint(const std::filesystem::path& path);
    QuantizedLinearWeights read_layer_of_checkpoint(const QuantizedLayer& layer) const;
    void find_layers();
    void find_attentions();

    std::filesystem::path path_;
    QuantDescription description_;
    SafetensorsFile weights_;
    std::vector<QuantizedLayer> layers_;
    std::vector<StoredAttention> attentions_;
    ForeignCheckpoint foreign_;
};

}  // namespace aerogel
