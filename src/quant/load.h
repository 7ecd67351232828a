// Reading a quantized pair: the description JSON and the safetensors file that belongs to it, in the
// forms that both known exporters write (they differ in dtypes, in which scales are stored and in
// how a smoothed layer is named).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/description.h"
#include "aerogel/quantized_linear.h"
#include "aerogel/safetensors.h"

namespace aerogel {

/// A layer that the description quantizes.
struct QuantizedLayer {
    std::string name;        ///< of the module in the float model
    std::string prefix;      ///< of its tensors: the name, or name + ".linear" beside name + ".div.mul_scale"
    std::string quant_type;  ///< upper case; may be one that nothing here computes yet
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
    /// digits behind the last "_" are replaced, or "_<rank>" is added. IoError / InvalidArgument.
    static QuantizedPair open(const std::filesystem::path& path, int rank = -1);

    const std::filesystem::path& path() const { return path_; }
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
    /// Bytes of the layer's tensors in the file.
    std::size_t stored_bytes(const QuantizedLayer& layer) const;

  private:
    QuantizedPair(std::filesystem::path path, QuantDescription description, SafetensorsFile weights);
    void find_layers();
    void find_attentions();

    std::filesystem::path path_;
    QuantDescription description_;
    SafetensorsFile weights_;
    std::vector<QuantizedLayer> layers_;
    std::vector<StoredAttention> attentions_;
};

}  // namespace aerogel
