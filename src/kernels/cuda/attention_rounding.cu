// Instances of attention_rounding.cuh.
#include "kernels/cuda/attention_rounding.cuh"

namespace cuda = aerogel::cuda;

extern "C" __global__ void __launch_bounds__(256, 2) aerogel_round_copy(const cuda::RoundCopyArgs a) {
    cuda::copy_rows(a);
}
extern "C" __global__ void __launch_bounds__(256, 2) aerogel_round_means(const cuda::RoundMeansArgs a) {
    cuda::take_plain_means(a);
}
extern "C" __global__ void __launch_bounds__(256, 2) aerogel_round_blocks(const cuda::RoundArgs a) {
    cuda::round_blocks(a);
}
extern "C" __global__ void __launch_bounds__(256, 2) aerogel_round_channels(const cuda::RoundArgs a) {
    cuda::round_channels(a);
}
extern "C" __global__ void __launch_bounds__(256, 2) aerogel_round_rows(const cuda::RoundArgs a) {
    cuda::round_rows(a);
}
