// Int8 attention in AVX-512 with VNNI: vpdpbusd sums four products of unsigned and signed bytes exactly. The
// weights are unsigned; queries get 128 added, and each key takes 128 times its own sum off again.
#include "kernels/cpu/attention_limits.h"
#include "kernels/cpu/avx512/int8_bytes.h"
#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/int8_attention_driver.h"
#include "kernels/cpu/int8_scales.h"

namespace aerogel {

constexpr AttentionKernel avx512::kInt8Attention = {
    .name = "cpu.avx512.int8_attention",
    .formats = kInt8Formats,
    .why_not = takes_up_to_256,
    .workspace_bytes = attend_quantized_workspace<Avx512Bytes>,
    .run = attend_quantized<Avx512Bytes>,
    .find_scales = find_scales,
    .largest_weight = kWideWeight};

}  // namespace aerogel
