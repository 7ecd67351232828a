// Float weights and activations with AVX2.
#include "kernels/cpu/linear_float.h"

#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/linear_tile.h"

namespace aerogel {
namespace {

using Row = FloatLinearRow<Avx2Floats>;

}  // namespace

constexpr LinearKernel avx2::kFloat = {"cpu.avx2.f32", takes_float,          Row::packed_bytes,
                                       Row::pack,      Row::workspace_bytes, Row::run};

}  // namespace aerogel
