// Float weights and activations with AVX2.
#include "kernels/cpu/linear_float.h"

#include "kernels/cpu/avx2/linear.h"
#include "kernels/cpu/avx2/linear_tile.h"

namespace aerogel {
namespace {

using Row = FloatLinearRow<Avx2Floats>;

}  // namespace

constexpr LinearKernel kAvx2Float = {"cpu.avx2.f32", CpuLevel::avx2,       takes_float, Row::packed_bytes,
                                     Row::pack,      Row::workspace_bytes, Row::run};

}  // namespace aerogel
