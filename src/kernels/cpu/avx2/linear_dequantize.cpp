// Quantized weights multiplied as floats with AVX2.
#include "kernels/cpu/linear_dequantize.h"

#include "kernels/cpu/avx2/codes.h"
#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/linear_tile.h"

namespace aerogel {
namespace {

struct Avx2Dequantize : Avx2Codes, Avx2Floats {};

using Row = DequantizeRow<Avx2Dequantize>;

}  // namespace

constexpr LinearKernel avx2::kDequantize = {"cpu.avx2.dequantize", takes_codes, Row::packed_bytes, Row::pack,
                                            Row::workspace_bytes,  Row::run};

}  // namespace aerogel
