// A safetensors file in which every tensor starts at a multiple of its element size, which some
// readers insist on, while tensors are given in any order that suits the work.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "aerogel/safetensors.h"

namespace aerogel {

/// Tensors of a multiple of 8 bytes are written at once, in the announced order; the others (scalars, odd
/// sizes) are kept in memory and go last, wide types first.
class AlignedWriter {
  public:
    /// As SafetensorsWriter.
    AlignedWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors);
    void write(const std::string& name, const Tensor& tensor);
    void finish();

  private:
    std::vector<TensorInfo> order_;
    std::map<std::string, Tensor> kept_;
    SafetensorsWriter writer_;
};

}  // namespace aerogel
