// E4M3 times E4M3 by mma.sync: tiles of gemm.cuh for the cards that have it.
#include "kernels/cuda/gemm_entry.cuh"

AEROGEL_GEMM(fp8_m, Fp8, kTileM, true)
AEROGEL_GEMM(fp8_s, Fp8, kTileS, true)
