// The rounding formats of every CPU level: q, k and v are rounded here, for every x86-64 alike, and then the
// level's float kernel computes.
#include "kernels/attention_rounding.h"
#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/baseline/kernels.h"

namespace aerogel {

constexpr AttentionKernel avx512::kRoundedAttention =
    rounding_kernel<&avx512::kAttention>("cpu.avx512.rounded_attention");
constexpr AttentionKernel avx2::kRoundedAttention =
    rounding_kernel<&avx2::kAttention>("cpu.avx2.rounded_attention");
constexpr AttentionKernel baseline::kRoundedAttention =
    rounding_kernel<&baseline::kAttention>("cpu.baseline.rounded_attention");

}  // namespace aerogel
