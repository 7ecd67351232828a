// Codes that become bf16 times bf16 by wgmma.
#include "kernels/cuda/gemm_codes_sm90.cuh"

AEROGEL_HOPPER_CODES(bf16_int8_sm90, Bf16Int8, kHopperHalves, true)
AEROGEL_HOPPER_CODES(bf16_int4_sm90, Bf16Int4, kHopperQuarters, true)
AEROGEL_HOPPER_CODES(bf16_fp8_sm90, Bf16Fp8, kHopperHalves, true)
AEROGEL_HOPPER_CODES(bf16_fp4_sm90, Bf16Fp4, kHopperQuarters, true)
