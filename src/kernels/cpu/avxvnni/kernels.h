// Every kernel for AVX-VNNI: AVX2 and vpdpbusd on 256 bits. kernels/cpu/list.cpp says which one is tried
// first.
#pragma once

#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/peak.h"

namespace aerogel::avxvnni {

extern const LinearKernel kW8A8;
extern const LinearKernel kByteGroups;
extern const AttentionKernel kInt8Attention;
extern const PeakKernel kPeakInt8;

}  // namespace aerogel::avxvnni
