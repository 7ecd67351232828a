// The emulated side of src/kernels/cuda/primitives/gpu_sm120.h, which documents these functions.
#pragma once

#include <bit>
#include <cstdint>

#include "emulator/primitives.h"
#include "emulator/scaled_products.h"

namespace aerogel::gpu {

/// The scales of the two tiles, as registers.
struct Scales {
    std::uint32_t a, b;
};
__attribute__((no_sanitize_thread)) inline void multiply_scaled(emulator::ScaledProduct product,
                                                                float (&c)[4], const std::uint32_t (&a)[4],
                                                                const std::uint32_t* b, Scales scales) {
    emulator::ScaledIn in{};
    for (int i = 0; i < 4; ++i) in.tiles.c[i] = std::bit_cast<std::uint32_t>(c[i]);
    for (int i = 0; i < 4; ++i) in.tiles.a[i] = a[i];
    in.tiles.b[0] = b[0];
    in.tiles.b[1] = b[1];
    in.scale_a = scales.a;
    in.scale_b = scales.b;
    std::uint32_t out[4];
    emulator::multiply_scaled(product, in, out);
    for (int i = 0; i < 4; ++i) c[i] = std::bit_cast<float>(out[i]);
}

inline void mma_mxfp8(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                      std::uint32_t scale_a, std::uint32_t scale_b) {
    multiply_scaled(emulator::ScaledProduct::e4m3, c, a, b, {scale_a, scale_b});
}
inline void mma_mxfp8_fp4(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                          std::uint32_t scale_a, std::uint32_t scale_b) {
    multiply_scaled(emulator::ScaledProduct::e4m3_e2m1, c, a, b, {scale_a, scale_b});
}
inline void mma_mxfp4(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t* b,
                      std::uint32_t scale_a, std::uint32_t scale_b) {
    multiply_scaled(emulator::ScaledProduct::e2m1, c, a, b, {scale_a, scale_b});
}

inline std::uint32_t pack_e2m1(float low, float high) {
    return emulator::encode(emulator::kE2M1, low) | emulator::encode(emulator::kE2M1, high) << 4;
}

}  // namespace aerogel::gpu
