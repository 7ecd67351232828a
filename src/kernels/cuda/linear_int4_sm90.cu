// Int4 weights times integers by wgmma.
#include "kernels/cuda/gemm_codes_sm90.cuh"

AEROGEL_HOPPER_CODES(w4a8_sm90, Int4, kHopperHalves, false)
AEROGEL_HOPPER_CODES(w4a8_groups_sm90, Int4, kHopperHalves, true)
