// Quantized weights multiplied as floats with AVX-512.
#include "kernels/cpu/linear_dequantize.h"

#include "kernels/cpu/avx512/codes.h"
#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/avx512/linear_tile.h"

namespace aerogel {
namespace {

struct Avx512Dequantize : Avx512Codes, Avx512Floats {};

using Row = DequantizeRow<Avx512Dequantize>;

}  // namespace

constexpr LinearKernel avx512::kDequantize = {
    "cpu.avx512.dequantize", takes_codes, Row::packed_bytes, Row::pack, Row::workspace_bytes, Row::run};

}  // namespace aerogel
