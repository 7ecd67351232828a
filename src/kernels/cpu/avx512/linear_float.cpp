// Float weights and activations with AVX-512.
#include "kernels/cpu/linear_float.h"

#include "kernels/cpu/avx512/linear.h"
#include "kernels/cpu/avx512/linear_tile.h"

namespace aerogel {
namespace {

using Row = FloatLinearRow<Avx512Floats>;

}  // namespace

constexpr LinearKernel kAvx512Float = {"cpu.avx512.f32", CpuLevel::avx512,     takes_float, Row::packed_bytes,
                                       Row::pack,        Row::workspace_bytes, Row::run};

}  // namespace aerogel
