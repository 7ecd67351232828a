// The unquantized formats: float32 as it is, bfloat16 widened.
#pragma once

#include "formats/format.h"

namespace aerogel {

extern const FormatRow kFloat32Format;
extern const FormatRow kBFloat16Format;

}  // namespace aerogel
