// What the lists of kernels/cpu/list.cpp want of kernels/cpu/rounded_attention.cpp, once more for the AVX-512
// that tests/CMakeLists.txt builds in software; the other levels of that file are the real ones.
#include "kernels/attention_rounding.h"
#include "kernels/cpu/avx512/kernels.h"

namespace aerogel {

constexpr AttentionKernel avx512::kRoundedAttention =
    rounding_kernel<&avx512::kAttention>("cpu.avx512.rounded_attention");

}  // namespace aerogel
