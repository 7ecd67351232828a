// Products as kernels for sm_90a are written: a warp copies tiles by TMA, two warp groups multiply them; and
// the second half of an attention, with A from registers and B with its columns along the rows.
#include "emulator/kernels/sample_sm90.h"

#include "kernels/cuda/primitives/gpu_sm90.h"

namespace aerogel::emulator {

struct HopperStages {
    unsigned char* tiles;
    std::uint64_t *full, *empty;
};

__device__ __forceinline__ HopperStages hopper_stages() {
    unsigned char* shared = gpu::shared();
    auto* barriers = reinterpret_cast<std::uint64_t*>(shared + kHopperStages * 2 * kHopperTile);
    return {shared, barriers, barriers + kHopperStages};
}

__device__ __forceinline__ void produce(const HopperStages& stages, const SampleHopperArgs& a, int steps) {
    for (int t = 0; t < steps; ++t) {
        const int s = t % kHopperStages;
        gpu::mbarrier_wait(stages.empty + s, static_cast<std::uint32_t>((t / kHopperStages & 1) ^ 1));
        gpu::mbarrier_expect(stages.full + s, 2 * kHopperTile);
        unsigned char* to = stages.tiles + s * 2 * kHopperTile;
        gpu::tma_load_2d(to, &a.x, stages.full + s, t * 128, static_cast<int>(blockIdx.y) * 128);
        gpu::tma_load_2d(to + kHopperTile, &a.w, stages.full + s, t * 128,
                         static_cast<int>(blockIdx.x) * 128);
    }
}

__device__ __forceinline__ void consume(const HopperStages& stages, std::int32_t (&sums)[64], int group,
                                        int steps) {
    for (int t = 0; t < steps; ++t) {
        const int s = t % kHopperStages;
        gpu::mbarrier_wait(stages.full + s, static_cast<std::uint32_t>(t / kHopperStages & 1));
        const unsigned char *x = stages.tiles + s * 2 * kHopperTile, *w = x + kHopperTile;
        gpu::wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < 4; ++kk) {
            gpu::wgmma_s8(sums, gpu::descriptor(x + group * 64 * 128 + kk * 32),
                          gpu::descriptor(w + kk * 32));
        }
        gpu::wgmma_commit();
        gpu::wgmma_wait<1>(sums);  // the group before this one is done: its stage goes back
        if (t > 0 && threadIdx.x % 128 == 0) gpu::mbarrier_arrive(stages.empty + (t - 1) % kHopperStages);
    }
    gpu::wgmma_wait<0>(sums);
}

extern "C" __global__ void __launch_bounds__(kHopperThreads, 1)
    aerogel_sample_hopper(const __grid_constant__ SampleHopperArgs a) {
    const HopperStages stages = hopper_stages();
    const int role = static_cast<int>(threadIdx.x) / 128, steps = (a.k + 127) / 128;
    if (threadIdx.x == 0) {
        for (int s = 0; s < kHopperStages; ++s) {
            gpu::mbarrier_init(stages.full + s, 1);
            gpu::mbarrier_init(stages.empty + s, 2);
        }
        gpu::mbarrier_fence_init();
    }
    __syncthreads();
    if (role == 0) {
        gpu::set_registers_down<40>();
        if (threadIdx.x == 0) produce(stages, a, steps);
        return;
    }
    gpu::set_registers_up<232>();
    std::int32_t sums[64];
#pragma unroll
    for (int v = 0; v < 64; ++v) sums[v] = 0;
    consume(stages, sums, role - 1, steps);
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4;
    const int row = static_cast<int>(blockIdx.y) * 128 + (role - 1) * 64 + warp * 16 + lane / 4;
    const int column = static_cast<int>(blockIdx.x) * 128 + lane % 4 * 2;
#pragma unroll
    for (int v = 0; v < 64; ++v) {
        const int r = row + v / 2 % 2 * 8, c = column + v / 4 * 8 + v % 2;
        if (r >= a.m || c >= a.n) continue;
        a.y[static_cast<std::int64_t>(r) * a.n + c] =
            __fmul_rn(__fmul_rn(static_cast<float>(sums[v]), a.xs[r]), a.ws[c]);
    }
}

extern "C" __global__ void __launch_bounds__(128) aerogel_sample_pv(const __grid_constant__ SamplePvArgs a) {
    unsigned char* v = gpu::shared();
    auto* full = reinterpret_cast<std::uint64_t*>(v + 2 * 64 * 128);
    if (threadIdx.x == 0) {
        gpu::mbarrier_init(full, 1);
        gpu::mbarrier_fence_init();
        gpu::mbarrier_expect(full, 2 * 64 * 128);
        gpu::tma_load_2d(v, &a.v, full, 0, 0);
        gpu::tma_load_2d(v + 64 * 128, &a.v, full, 64, 0);
    }
    __syncthreads();
    gpu::mbarrier_wait(full, 0);
    const int lane = static_cast<int>(threadIdx.x) % 32,
              row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
    float sums[64];
    std::uint32_t p[4][4];
#pragma unroll
    for (int kk = 0; kk < 4; ++kk) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            p[kk][i] = gpu::load_global<std::uint32_t>(a.p + (row + i % 2 * 8) * 64 + kk * 16 + i / 2 * 8 +
                                                       lane % 4 * 2);
        }
    }
    gpu::wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 4; ++kk) {
        gpu::wgmma_bf16_transposed(sums, p[kk], gpu::descriptor_transposed(v + kk * 2048, 64 * 128), kk > 0);
    }
    gpu::wgmma_commit();
    gpu::wgmma_wait<0>(sums);
#pragma unroll
    for (int i = 0; i < 64; ++i)
        a.o[(row + i / 2 % 2 * 8) * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

}  // namespace aerogel::emulator
