// Instances of attention.cuh: bf16, f16, and bf16 in two parts for f32.
#include "kernels/cuda/attention.cuh"

namespace cuda = aerogel::cuda;

#define AEROGEL_ATTENTION(name, element, shape)                                                   \
    extern "C" __global__ void __launch_bounds__(128, 2) name(const cuda::FloatAttentionArgs a) { \
        cuda::float_attention<cuda::FloatShape<element, shape>>(a);                               \
    }

AEROGEL_ATTENTION(aerogel_attention_bf16_64, cuda::Bf16, cuda::kNarrowShape)
AEROGEL_ATTENTION(aerogel_attention_bf16_128, cuda::Bf16, cuda::kMiddleShape)
AEROGEL_ATTENTION(aerogel_attention_bf16_256, cuda::Bf16, cuda::kWideShape)
AEROGEL_ATTENTION(aerogel_attention_f16_64, cuda::F16, cuda::kNarrowShape)
AEROGEL_ATTENTION(aerogel_attention_f16_128, cuda::F16, cuda::kMiddleShape)
AEROGEL_ATTENTION(aerogel_attention_f16_256, cuda::F16, cuda::kWideShape)
AEROGEL_ATTENTION(aerogel_attention_split_64, cuda::Bf16, cuda::kNarrowSplit)
AEROGEL_ATTENTION(aerogel_attention_split_128, cuda::Bf16, cuda::kMiddleSplit)
AEROGEL_ATTENTION(aerogel_attention_split_256, cuda::Bf16, cuda::kWideSplit)

extern "C" __global__ void __launch_bounds__(256) aerogel_split_rows(const cuda::SplitRowsArgs a) {
    cuda::split_rows(a);
}
extern "C" __global__ void __launch_bounds__(256) aerogel_key_words(const cuda::KeyWordsArgs a) {
    cuda::key_words(a);
}
