// Float weights and activations with SSE2.
#include "kernels/cpu/linear_float.h"

#include "kernels/cpu/baseline/kernels.h"
#include "kernels/cpu/baseline/linear_tile.h"

namespace aerogel {
namespace {

using Row = FloatLinearRow<Sse2Floats>;

}  // namespace

constexpr LinearKernel baseline::kFloat = {"cpu.baseline.f32", takes_float,          Row::packed_bytes,
                                           Row::pack,          Row::workspace_bytes, Row::run};

}  // namespace aerogel
