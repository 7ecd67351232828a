// Integers times integers by wgmma.
#include "kernels/cuda/gemm_codes_sm90.cuh"

extern "C" __global__ void __launch_bounds__(aerogel::cuda::kHopperWide.threads, 1)
    aerogel_w8a8_sm90(const aerogel::cuda::GemmArgs a) {
    aerogel::cuda::HopperGemm<aerogel::cuda::HopperInt8, aerogel::cuda::kHopperWide>(a).run();
}

AEROGEL_HOPPER_CODES(w8a8_groups_sm90, Int8, kHopperWide, true)
