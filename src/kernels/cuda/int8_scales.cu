// Instances of int8_scales.cuh.
#include "kernels/cuda/int8_scales.cuh"

namespace cuda = aerogel::cuda;

extern "C" __global__ void __launch_bounds__(256, 2) aerogel_int8_queries(const cuda::Int8TokensArgs a) {
    cuda::quantize_queries(a);
}
extern "C" __global__ void __launch_bounds__(256, 2) aerogel_int8_keys(const cuda::Int8TokensArgs a) {
    cuda::quantize_keys(a);
}
extern "C" __global__ void __launch_bounds__(256, 2) aerogel_int8_values(const cuda::Int8ValuesArgs a) {
    cuda::quantize_values(a);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    aerogel_int8_block_scales(const cuda::Int8BlockScalesArgs a) {
    cuda::block_scales(a);
}
extern "C" __global__ void __launch_bounds__(256, 2) aerogel_int8_sums(const cuda::Int8MeansArgs a) {
    cuda::sum_tokens(a);
}
extern "C" __global__ void __launch_bounds__(256, 2) aerogel_int8_means(const cuda::Int8MeansArgs a) {
    cuda::take_means(a);
}
