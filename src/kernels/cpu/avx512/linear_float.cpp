// Float weights and activations with AVX-512.
#include "kernels/cpu/linear_float.h"

#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/avx512/linear_tile.h"

namespace aerogel {
namespace {

using Row = FloatLinearRow<Avx512Floats>;

}  // namespace

constexpr LinearKernel avx512::kFloat = {"cpu.avx512.f32", takes_float,          Row::packed_bytes,
                                         Row::pack,        Row::workspace_bytes, Row::run};

}  // namespace aerogel
