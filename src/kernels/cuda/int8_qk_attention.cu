// Instances of int8_qk_attention.cuh.
#include "kernels/cuda/int8_qk_attention.cuh"

namespace cuda = aerogel::cuda;

#define AEROGEL_INT8_QK(name, element, shape)                                             \
    extern "C" __global__ void __launch_bounds__(128, 2) name(const cuda::Int8QkArgs a) { \
        cuda::int8_qk_attention<cuda::Int8QkKernel<cuda::element, cuda::shape>>(a);       \
    }

AEROGEL_INT8_QK(aerogel_int8_qk_bf16_64, Bf16, kNarrowInt8Qk)
AEROGEL_INT8_QK(aerogel_int8_qk_bf16_128, Bf16, kMiddleInt8Qk)
AEROGEL_INT8_QK(aerogel_int8_qk_bf16_256, Bf16, kWideInt8Qk)
AEROGEL_INT8_QK(aerogel_int8_qk_f16_64, F16, kNarrowInt8Qk)
AEROGEL_INT8_QK(aerogel_int8_qk_f16_128, F16, kMiddleInt8Qk)
AEROGEL_INT8_QK(aerogel_int8_qk_f16_256, F16, kWideInt8Qk)
