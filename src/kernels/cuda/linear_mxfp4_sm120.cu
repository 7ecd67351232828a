// E2M1 times E2M1 in MX blocks by the products of sm_120.
#include "kernels/cuda/mx_gemm.cuh"

AEROGEL_MX_GEMM(fp4_m, fp4, kTileM)
AEROGEL_MX_GEMM(fp4_s, fp4, kTileS)
