// E4M3 times E4M3 or E2M1 in MX blocks by the products of sm_120.
#include "kernels/cuda/mx_gemm.cuh"
#include "kernels/cuda/mx_quantize.cuh"

AEROGEL_MX_GEMM(fp8_m, fp8, kTileM)
AEROGEL_MX_GEMM(fp8_s, fp8, kTileS)
AEROGEL_MX_GEMM(fp8_fp4_m, fp8_fp4, kTileM)
AEROGEL_MX_GEMM(fp8_fp4_s, fp8_fp4, kTileS)

extern "C" __global__ void __launch_bounds__(aerogel::cuda::kQuantizeThreads)
    aerogel_mx_quantize(const aerogel::cuda::MxQuantizeArgs a) {
    aerogel::cuda::MxRowQuantizer<false>(a).run();
}
extern "C" __global__ void __launch_bounds__(aerogel::cuda::kQuantizeThreads)
    aerogel_mx_quantize_rotated(const aerogel::cuda::MxQuantizeArgs a) {
    aerogel::cuda::MxRowQuantizer<true>(a).run();
}
