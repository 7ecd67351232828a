// Float activations with AVX-512: float weights (f32) and int8 weights decoded on the way (W8A16).
#include "kernels/cpu/linear_float.h"

#include "kernels/cpu/avx512/linear.h"
#include "kernels/cpu/avx512/linear_tile.h"

namespace aerogel {
namespace {

using Row = FloatLinearRow<Avx512Floats>;

}  // namespace

constexpr LinearKernel kAvx512Float = {"cpu.avx512.f32", CpuLevel::avx512,     takes_float, Row::packed_bytes,
                                       Row::pack,        Row::workspace_bytes, Row::run};
constexpr LinearKernel kAvx512W8A16 = {
    "cpu.avx512.w8a16", CpuLevel::avx512,     takes_w8a16, Row::packed_bytes,
    Row::pack,          Row::workspace_bytes, Row::run};

}  // namespace aerogel
