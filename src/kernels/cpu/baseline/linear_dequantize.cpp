// Quantized weights multiplied as floats with SSE2.
#include "kernels/cpu/linear_dequantize.h"

#include "kernels/cpu/baseline/codes.h"
#include "kernels/cpu/baseline/kernels.h"
#include "kernels/cpu/baseline/linear_tile.h"

namespace aerogel {
namespace {

struct Sse2Dequantize : Sse2Codes, Sse2Floats {};

using Row = DequantizeRow<Sse2Dequantize>;

}  // namespace

constexpr LinearKernel baseline::kDequantize = {
    "cpu.baseline.dequantize", takes_codes, Row::packed_bytes, Row::pack, Row::workspace_bytes, Row::run};

}  // namespace aerogel
