// Products of bf16, whose sums are floats: tiles of gemm.cuh for float weights and for codes that become
// bf16.
#include "kernels/cuda/gemm_entry.cuh"

AEROGEL_GEMM(bf16_m, Bf16, kTileM, false)
AEROGEL_GEMM(bf16_s, Bf16, kTileS, false)
AEROGEL_GEMM(bf16_int8_m, Bf16Int8, kTileM, true)
AEROGEL_GEMM(bf16_int8_s, Bf16Int8, kTileS, true)
AEROGEL_GEMM(bf16_int4_m, Bf16Int4, kTileM, true)
AEROGEL_GEMM(bf16_int4_s, Bf16Int4, kTileS, true)
AEROGEL_GEMM(bf16_fp8_m, Bf16Fp8, kTileM, true)
AEROGEL_GEMM(bf16_fp8_s, Bf16Fp8, kTileS, true)
AEROGEL_GEMM(bf16_fp4_m, Bf16Fp4, kTileM, true)
AEROGEL_GEMM(bf16_fp4_s, Bf16Fp4, kTileS, true)
