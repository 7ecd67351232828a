// Every kernel for AVX-512 with BF16. kernels/cpu/list.cpp says which one is tried first.
#pragma once

#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/peak.h"

namespace aerogel::avx512_bf16 {

extern const LinearKernel kBf16;
extern const AttentionKernel kAttention;
extern const PeakKernel kPeakBf16;

}  // namespace aerogel::avx512_bf16
