// Quantized files of ComfyUI: a JSON object beside each layer's weight says what that is. Read as
// comfy/ops.py and the package comfy-kitchen do.
#pragma once

#include <string>

#include "quant/foreign/foreign.h"

namespace aerogel {

/// None where no tensor is marked. Errors as foreign_checkpoint().
ForeignCheckpoint comfy_checkpoint(const SafetensorsFile& file);

/// "int8_tensorwise, convrot_w4a4 ...", those that are read.
std::string comfy_formats();

/// Where the scale of a block of 32 columns stands among those of [rows, blocks] in the order of cuBLAS:
/// tiles of 128 rows and 4 blocks, in which rows 32 apart lie together.
std::int64_t swizzled_place(std::int64_t row, std::int64_t block, std::int64_t blocks);
/// How many there are, with those that fill the last tiles.
std::int64_t swizzled_count(std::int64_t rows, std::int64_t blocks);

}  // namespace aerogel
