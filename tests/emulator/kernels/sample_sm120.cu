// One product of MX numbers.
#include "emulator/kernels/sample_sm120.h"

#include "kernels/cuda/primitives/gpu_sm120.h"

namespace aerogel::emulator {

extern "C" __global__ void aerogel_sample_mx(SampleMxArgs s) {
    const int lane = static_cast<int>(threadIdx.x);
    float c[4] = {0, 0, 0, 0};
    const std::uint32_t a[4] = {s.a[lane * 4], s.a[lane * 4 + 1], s.a[lane * 4 + 2], s.a[lane * 4 + 3]};
    const std::uint32_t b[2] = {s.b[lane * 2], s.b[lane * 2 + 1]};
    if (s.kind == 0) gpu::mma_mxfp8(c, a, b, s.scale_a[lane], s.scale_b[lane]);
    if (s.kind == 1) gpu::mma_mxfp8_fp4(c, a, b, s.scale_a[lane], s.scale_b[lane]);
    if (s.kind == 2) gpu::mma_mxfp4(c, a, b, s.scale_a[lane], s.scale_b[lane]);
    for (int i = 0; i < 4; ++i) s.o[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = c[i];
}

}  // namespace aerogel::emulator
