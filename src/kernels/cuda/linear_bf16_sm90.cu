// bf16 times bf16 by wgmma.
#include "kernels/cuda/gemm_sm90.cuh"

extern "C" __global__ void __launch_bounds__(aerogel::cuda::kHopperWide.threads, 1)
    aerogel_bf16_sm90(const aerogel::cuda::GemmArgs a) {
    aerogel::cuda::HopperGemm<aerogel::cuda::HopperBf16, aerogel::cuda::kHopperWide>(a).run();
}
