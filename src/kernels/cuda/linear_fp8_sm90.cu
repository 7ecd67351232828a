// E4M3 times E4M3 by wgmma.
#include "kernels/cuda/gemm_sm90.cuh"

extern "C" __global__ void __launch_bounds__(aerogel::cuda::kHopperNarrow.threads, 1)
    aerogel_fp8_sm90(const aerogel::cuda::GemmArgs a) {
    aerogel::cuda::HopperGemm<aerogel::cuda::HopperFp8, aerogel::cuda::kHopperNarrow>(a).run();
}
