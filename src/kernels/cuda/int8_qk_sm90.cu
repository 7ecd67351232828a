// Instances of attention_sm90.cuh for q and k in int8.
#include "kernels/cuda/attention_sm90.cuh"

namespace cuda = aerogel::cuda;

#define AEROGEL_HOPPER_INT8_QK(name, type, width, groups)                                 \
    extern "C" __global__ void __launch_bounds__((groups + 1) * 128,                      \
                                                 (groups) == 1 && (width) <= 128 ? 2 : 1) \
        name(const cuda::HopperAttentionArgs a) {                                         \
        cuda::attention_sm90<cuda::type, cuda::hopper_attention(width, groups, 1)>(a);    \
    }

AEROGEL_HOPPER_INT8_QK(aerogel_int8_qk_sm90_bf16_64_1, GroupBf16, 64, 1)
AEROGEL_HOPPER_INT8_QK(aerogel_int8_qk_sm90_bf16_128_1, GroupBf16, 128, 1)
AEROGEL_HOPPER_INT8_QK(aerogel_int8_qk_sm90_bf16_256_1, GroupBf16, 256, 1)
AEROGEL_HOPPER_INT8_QK(aerogel_int8_qk_sm90_bf16_64_2, GroupBf16, 64, 2)
AEROGEL_HOPPER_INT8_QK(aerogel_int8_qk_sm90_bf16_128_2, GroupBf16, 128, 2)
AEROGEL_HOPPER_INT8_QK(aerogel_int8_qk_sm90_f16_64_1, GroupF16, 64, 1)
AEROGEL_HOPPER_INT8_QK(aerogel_int8_qk_sm90_f16_128_1, GroupF16, 128, 1)
AEROGEL_HOPPER_INT8_QK(aerogel_int8_qk_sm90_f16_256_1, GroupF16, 256, 1)
AEROGEL_HOPPER_INT8_QK(aerogel_int8_qk_sm90_f16_64_2, GroupF16, 64, 2)
AEROGEL_HOPPER_INT8_QK(aerogel_int8_qk_sm90_f16_128_2, GroupF16, 128, 2)
