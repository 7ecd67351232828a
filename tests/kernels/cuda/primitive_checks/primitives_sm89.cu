// The primitives of gpu.h for fp8, of sm_89 and sm_120.
#include "kernels/cuda/primitive_checks/products.cuh"

namespace aerogel::testing {

/// All numbers of E4M3 come back, what lies half way goes to the even one, what is too large to 448.
__device__ inline int wrong_e4m3(const PrimitiveArgs&) {
    const auto size = [](unsigned bits) {
        const auto fraction = static_cast<float>(bits % 8);
        return bits < 8 ? fraction * 0x1p-9F : ldexpf(8.0F + fraction, static_cast<int>(bits / 8) - 10);
    };
    const unsigned low = threadIdx.x, next = low + 1;  // 127 is NaN
    if (low >= 126) return gpu::pack_e4m3(1000.0F, -500.0F) != 0xFE7E;
    const float middle = (size(low) + size(next)) / 2;
    return (gpu::pack_e4m3(size(low), -size(next)) != (low | (next | 0x80U) << 8)) +
           (gpu::pack_e4m3(middle, -middle) != (low % 2 == 0 ? low : next) * 257U + 0x8000U);
}

}  // namespace aerogel::testing

using namespace aerogel::testing;
namespace gpu = aerogel::gpu;

AEROGEL_CHECK(mma_e4m3, wrong_products<float, NumberE4M3, NumberE4M3>(a, [](auto& c, auto& x, auto& y) {
                  gpu::mma_e4m3(c, x, y);
              }))
AEROGEL_CHECK(e4m3, wrong_e4m3(a))
