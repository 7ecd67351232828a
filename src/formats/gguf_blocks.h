// What the blocks of GGUF's tensor types mean (ggml-common.h): as float32, every product and difference
// rounded once in the order of the Python package `gguf`, and, for the types that are formats of ours, as
// they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "aerogel/quantized_tensor.h"
#include "core/gguf.h"

namespace aerogel {

/// The numbers of whole blocks: `blocks` holds count / type.block of them.
void dequantize_blocks(const GgufType& type, std::span<const std::byte> blocks, std::int64_t count,
                       float* out);

/// A matrix whose type is a format of ours with a scale per 32 columns: Q8_0 (int8) and Q4_0 (int4), the
/// stored values; nullopt for other types and for tensors that are no matrix.
std::optional<QuantizedTensor> quantized_blocks(const GgufType& type, std::span<const std::byte> blocks,
                                                std::int64_t rows, std::int64_t columns);

}  // namespace aerogel
