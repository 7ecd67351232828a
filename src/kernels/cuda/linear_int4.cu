// Tiles of gemm.cuh for int4 weights.
#include "kernels/cuda/gemm_entry.cuh"

AEROGEL_GEMM(w4a8_l, Int4, kTileL, false)
AEROGEL_GEMM(w4a8_m, Int4, kTileM, false)
AEROGEL_GEMM(w4a8_s, Int4, kTileS, false)
AEROGEL_GEMM(w4a8_t, Int4, kTileT, false)
AEROGEL_GEMM(w4a8_groups_m, Int4, kTileM, true)
AEROGEL_GEMM(w4a8_groups_s, Int4, kTileS, true)
