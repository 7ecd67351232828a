// Reading a quantized pair: the description JSON and the safetensors file that belongs to it, in the
// forms that both known exporters write (they differ in dtypes, in which scales are stored and in
// how a smoothed layer is named).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

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
    /// Keys about quantized attention, which nothing here computes yet.
    const std::vector<std::string>& attention_keys() const { return attention_keys_; }

    /// The arrays of one layer. InvalidArgument naming file, tensor, expected and got; Unsupported for a
    /// scheme that is not there yet. The result fits check_layer(). `in_features`: of the layer, where the
    /// caller knows; four-bit weights do not always tell (see int4_columns), 0 = find out.
    QuantizedLinearWeights read(const QuantizedLayer& layer, std::int64_t in_features = 0) const;
    /// Bytes of the layer's tensors in the file.
    std::size_t stored_bytes(const QuantizedLayer& layer) const;

  private:
    QuantizedPair(std::filesystem::path path, QuantDescription description, SafetensorsFile weights);
    void find_layers();

    std::filesystem::path path_;
    QuantDescription description_;
    SafetensorsFile weights_;
    std::vector<QuantizedLayer> layers_;
    std::vector<std::string> attention_keys_;
};

}  // namespace aerogel
