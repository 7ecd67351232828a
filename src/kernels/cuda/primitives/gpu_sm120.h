// What kernels may ask of sm_120a beyond gpu.h: products of MX numbers, whose scales the tensor cores
// multiply themselves. Under nvcc PTX, else the emulator's (tests/emulator).
#pragma once

#include "kernels/cuda/primitives/gpu.h"

#ifndef __CUDACC__
#include "emulator/primitives_sm120.h"
#else

namespace aerogel::gpu {

// c[16,8] += A[16,k] B[8,k]^T with a scale of E8M0 for each 32 k of a row. Scales: byte 0 of scale_a in lanes
// l % 4 = 0 and 1 is that of row l / 4 + l % 4 * 8; byte 0 of scale_b in lane l % 4 = 0 is that of row l / 4
// of B; other lanes' are not used.
#define AEROGEL_MX(shape_and_types)                                                                     \
    asm volatile(                                                                                       \
        "mma.sync.aligned." shape_and_types                                                             \
        " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3}, {%10}, {%12,%12}, {%11}, {%12,%12};"    \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(scale_a), "r"(scale_b), \
          "h"(static_cast<std::uint16_t>(0)))

/// E4M3, k = 32; registers as for mma_s8.
AEROGEL_DEVICE void mma_mxfp8(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                              std::uint32_t scale_a, std::uint32_t scale_b) {
    AEROGEL_MX("m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32.e4m3.e4m3.f32.ue8m0");
}
/// A of E4M3, B of E2M1 in bits 2 to 5 of its bytes, k = 32; registers as for mma_s8.
AEROGEL_DEVICE void mma_mxfp8_fp4(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                                  std::uint32_t scale_a, std::uint32_t scale_b) {
    AEROGEL_MX("m16n8k32.row.col.kind::mxf8f6f4.block_scale.scale_vec::1X.f32.e4m3.e2m1.f32.ue8m0");
}
/// E2M1, k = 64: registers as for mma_s8 with eight nibbles each; byte 1 of a scale is that of the second 32
/// k.
AEROGEL_DEVICE void mma_mxfp4(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                              std::uint32_t scale_a, std::uint32_t scale_b) {
    AEROGEL_MX("m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0");
}

#undef AEROGEL_MX

/// Two numbers of E2M1 in the low byte, the first one in the low nibble; beyond 6: +-6.
AEROGEL_DEVICE std::uint32_t pack_e2m1(float low, float high) {
    std::uint32_t r;
    asm("{\n.reg .b8 two;\ncvt.rn.satfinite.e2m1x2.f32 two, %1, %2;\ncvt.u32.u8 %0, two;\n}"
        : "=r"(r)
        : "f"(high), "f"(low));
    return r;
}

}  // namespace aerogel::gpu
#endif
