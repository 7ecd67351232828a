// Instances of int8_attention.cuh.
#include "kernels/cuda/int8_attention.cuh"

namespace cuda = aerogel::cuda;

#define AEROGEL_INT8_ATTENTION(name, shape)                                                      \
    extern "C" __global__ void __launch_bounds__(128, 2) name(const cuda::Int8AttentionArgs a) { \
        cuda::int8_attention<cuda::Int8Kernel<shape>>(a);                                        \
    }

AEROGEL_INT8_ATTENTION(aerogel_int8_attention_64, cuda::kNarrowInt8)
AEROGEL_INT8_ATTENTION(aerogel_int8_attention_128, cuda::kMiddleInt8)
AEROGEL_INT8_ATTENTION(aerogel_int8_attention_256, cuda::kWideInt8)
