// Integers times integers: the tiles of gemm.cuh for int8 weights.
#include "kernels/cuda/gemm_entry.cuh"

AEROGEL_GEMM(w8a8_l, Int8, kTileL, false)
AEROGEL_GEMM(w8a8_m, Int8, kTileM, false)
AEROGEL_GEMM(w8a8_s, Int8, kTileS, false)
AEROGEL_GEMM(w8a8_t, Int8, kTileT, false)
AEROGEL_GEMM(w8a8_groups_m, Int8, kTileM, true)
AEROGEL_GEMM(w8a8_groups_s, Int8, kTileS, true)
