// The primitives of gpu_sm120.h.
#include "kernels/cuda/primitive_checks/products.cuh"
#include "kernels/cuda/primitives/gpu_sm120.h"

namespace aerogel::testing {

/// Exponents of rows of A and of B: of each 32 k another.
__device__ inline int exponent_a(int row, int block) {
    return row % 5 - 2 + block;
}
__device__ inline int exponent_b(int row, int block) {
    return row % 3 - block;
}

/// A product of MX numbers, with the scales where it wants them. Lanes that are not asked give others.
template <class A, class B, class Multiply>
__device__ inline int wrong_mx(const PrimitiveArgs& a, Multiply multiply) {
    const int lane = lane_of_thread(), row_a = lane / 4 + lane % 4 * 8, row_b = lane / 4;
    const auto of = [](int first, int second) {
        return static_cast<std::uint32_t>(127 + first) | static_cast<std::uint32_t>(127 + second) << 8;
    };
    const std::uint32_t scale_a = lane % 4 < 2 ? of(exponent_a(row_a, 0), exponent_a(row_a, 1)) : 0x7777;
    const std::uint32_t scale_b = lane % 4 == 0 ? of(exponent_b(row_b, 0), exponent_b(row_b, 1)) : 0x7777;
    return wrong_products<float, A, B>(
        a,
        [&](float(&c)[4], const std::uint32_t(&x)[4], const std::uint32_t* y) {
            multiply(c, x, y, scale_a, scale_b);
        },
        [](int row, int column, int block) {
            return ldexpf(1.0F, exponent_a(row, block) + exponent_b(column, block));
        });
}

/// As for E4M3: 0 to 6 in eight steps.
__device__ inline int wrong_e2m1(const PrimitiveArgs&) {
    const auto size = [](unsigned bits) {
        return bits < 2 ? 0.5F * static_cast<float>(bits)
                        : ldexpf(2.0F + static_cast<float>(bits % 2), static_cast<int>(bits / 2) - 2);
    };
    const unsigned low = threadIdx.x % 8, next = low + 1;
    if (low == 7) return gpu::pack_e2m1(100.0F, -7.0F) != 0xF7;
    const float middle = (size(low) + size(next)) / 2;
    return (gpu::pack_e2m1(size(low), -size(next)) != (low | (next | 8U) << 4)) +
           (gpu::pack_e2m1(middle, -middle) != (low % 2 == 0 ? low : next) * 17U + 0x80U);
}

}  // namespace aerogel::testing

using namespace aerogel::testing;
namespace gpu = aerogel::gpu;

#define AEROGEL_MX(name, A, B)          \
    AEROGEL_CHECK(name, wrong_mx<A, B>( \
                            a, [](auto& c, auto& x, auto& y, auto s, auto t) { gpu::name(c, x, y, s, t); }))

AEROGEL_MX(mma_mxfp8, NumberE4M3, NumberE4M3)
AEROGEL_MX(mma_mxfp8_fp4, NumberE4M3, WideE2M1)
AEROGEL_MX(mma_mxfp4, NumberE2M1, NumberE2M1)
AEROGEL_CHECK(e2m1, wrong_e2m1(a))
