// Checkpoints of AutoRound, GPTQ and AWQ: integers packed into 32-bit words, a configuration beside the file.
#pragma once

#include <string>

#include "quant/foreign/foreign.h"

namespace aerogel {

/// None where the file has no such tensors. The configuration is quantization_config.json,
/// quantize_config.json or the "quantization_config" of config.json in the file's folder. Errors as
/// foreign_checkpoint(); InvalidArgument where there is none.
ForeignCheckpoint packed_checkpoint(const SafetensorsFile& file);

}  // namespace aerogel
