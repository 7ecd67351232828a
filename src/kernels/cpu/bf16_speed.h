// Whether this CPU multiplies bfloat16 faster than float32 without AMX.
#pragma once

#include <string>

namespace aerogel::cpu {

/// Products of vdpbf16ps over those of float32 FMA in the same time, measured: 2 on Zen 4 and 5, about 1 on
/// CPUs that have the instruction for compatibility. Only for CPUs of level avx512_bf16; some 300
/// microseconds.
double measure_bf16_gain();

/// Empty, or why kernels of vdpbf16ps do not pay here. Measured at the first call, once per process. The gain
/// is a whole number, so the choice, and with it the bits of results, is the same in every process; who wants
/// to be sure sets AEROGEL_CPU or AEROGEL_KERNEL.
std::string slow_bf16();

}  // namespace aerogel::cpu
