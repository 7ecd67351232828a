// Every kernel for the AMX tile unit. kernels/cpu/list.cpp says which one is tried first.
#pragma once

#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/peak.h"

namespace aerogel::amx {

extern const LinearKernel kW8A8;
extern const AttentionKernel kAttention;
extern const AttentionKernel kInt8Attention;
extern const PeakKernel kPeakBf16;
extern const PeakKernel kPeakInt8;

}  // namespace aerogel::amx
