// Kernels with a mistake each, for the self-tests of the emulator (tests/emulator/faults_test.cpp).
#include "emulator/kernels/broken.h"

#include "kernels/cuda/primitives/gpu_sm90.h"

namespace aerogel::emulator {

__device__ __forceinline__ float* numbers() {
    return reinterpret_cast<float*>(gpu::shared());
}
__device__ __forceinline__ int thread() {
    return static_cast<int>(threadIdx.x);
}

extern "C" __global__ void aerogel_no_barrier(BrokenArgs a) {
    numbers()[thread()] = 1;
    if (a.broken == 0) __syncthreads();
    a.global[thread()] = numbers()[(thread() + 32) % 64];
}

/// A shuffle is no barrier for memory.
extern "C" __global__ void aerogel_no_warp_barrier(BrokenArgs a) {
    numbers()[thread()] = 1;
    if (a.broken != 0) {
        gpu::shfl_xor(0, 1);
    } else {
        __syncwarp();
    }
    a.global[thread()] = numbers()[thread() ^ 1];
}

/// Overwrites what others may still read.
extern "C" __global__ void aerogel_overwrites(BrokenArgs a) {
    numbers()[thread()] = 1;
    __syncthreads();
    const float x = numbers()[(thread() + 32) % 64];
    if (a.broken == 0) __syncthreads();
    numbers()[thread()] = x + 1;
}

extern "C" __global__ void aerogel_diverged_barrier(BrokenArgs a) {
    if (a.broken == 0 || thread() % 32 < 16) __syncthreads();
}

extern "C" __global__ void aerogel_barrier_of_others(BrokenArgs a) {
    if (thread() < 32) {
        gpu::barrier_sync(1, 64);
    } else if (a.broken == 0) {
        gpu::barrier_arrive(1, 64);
    }
}

extern "C" __global__ void aerogel_missing_lane(BrokenArgs a) {
    if (a.broken == 0 || thread() % 32 != 7) gpu::shfl(1, 0);
}

extern "C" __global__ void aerogel_parted_lanes(BrokenArgs a) {
    if (a.broken == 0 || thread() % 32 < 16) {
        gpu::shfl(1, 0);
    } else {
        gpu::shfl(2, 0);
    }
}

/// Mistake 1: no wait; 2: waits for the group before it; 3: no barrier for the others; 4: never waited for.
extern "C" __global__ void aerogel_copies(BrokenArgs a) {
    gpu::cp_async16(numbers() + thread() * 4, a.global + thread() * 4);
    gpu::cp_async_commit();
    gpu::cp_async16(numbers() + 256 + thread() * 4, a.global + 256 + thread() * 4);
    gpu::cp_async_commit();
    if (a.broken == 4) return;
    if (a.broken == 2) {
        gpu::cp_async_wait<1>();
    } else if (a.broken != 1) {
        gpu::cp_async_wait<0>();
    }
    if (a.broken != 3) __syncthreads();
    a.global[512 + thread()] = numbers()[256 + (thread() * 4 + (a.broken == 2 ? 0 : 128)) % 256];
    gpu::cp_async_wait_all();
}

extern "C" __global__ void aerogel_addresses(BrokenArgs a) {
    float* shared = numbers();
    switch (a.broken) {
        case 1:
            gpu::cp_async16(shared + thread() * 4, a.global + 1 + thread() * 4);
            break;
        case 2:
            gpu::cp_async16(shared + 1 + thread() * 4, a.global + thread() * 4);
            break;
        case 3:
            shared[512 + thread()] = 1;
            break;  // the block has 2048 bytes
        case 4:
            gpu::load<uint4>(shared + 1 + thread() * 4);
            break;
        case 5:
            gpu::load_global<uint4>(a.global + 1 + thread() * 4);
            break;
        case 6:
            a.global[thread()] = shared[thread()];
            break;  // nobody wrote it
        case 7:
            a.global[1024 + thread()] = 1;
            break;
        case 8:
            a.global[thread()] = a.global[-1 - thread()];
            break;
        default:
            gpu::cp_async16(shared + thread() * 4, a.global + thread() * 4);
            gpu::cp_async_wait_all();
            gpu::store(a.global + 4 * thread(), gpu::load<uint4>(shared + thread() * 4));
    }
    gpu::cp_async_wait_all();
}

/// Mistakes 1 and 2: two blocks, two threads write the same number; 3: reads what another block wrote.
extern "C" __global__ void aerogel_global_races(BrokenArgs a) {
    const int block = static_cast<int>(blockIdx.x);
    if (a.broken == 1) a.global[thread()] = 1;
    if (a.broken == 2) a.global[block * 64 + thread() % 32] = 1;
    if (a.broken == 3) a.global[512 + block * 64 + thread()] = a.global[(1 - block) * 64 + thread()];
    a.global[block * 64 + thread()] = 1;
    __syncthreads();
    a.global[512 + block * 64 + thread()] = a.global[block * 64 + 63 - thread()];
}

/// Lane l stores to word l * (broken + 1).
extern "C" __global__ void aerogel_strided_stores(BrokenArgs a) {
    numbers()[thread() * (a.broken + 1)] = 1;
}

/// Rows of 128 bytes, swizzled or not.
extern "C" __global__ void aerogel_strided_matrices(BrokenArgs a) {
    for (int i = thread(); i < 32 * 32; i += 32) numbers()[i] = 1;
    __syncwarp();
    std::uint32_t r[4];
    const int row = thread(), chunk = a.broken != 0 ? 0 : row % 8;
    gpu::ldmatrix_x4(r, gpu::shared() + row * 128 + chunk * 16);
    a.global[thread()] = __uint_as_float(r[0]);
}

__device__ __noinline__ float deep(volatile float* p, int depth) {
    volatile float room[256];
    room[depth % 256] = *p;
    return depth == 0 ? room[0] : deep(room, depth - 1) + room[1];
}

/// A stack of more than 64 KiB.
extern "C" __global__ void aerogel_recursion(BrokenArgs a) {
    a.global[thread()] = deep(a.global, a.broken == 0 ? 4 : 1000);
}

/// Tickets in the order in which the warps come.
extern "C" __global__ void aerogel_tickets(BrokenArgs a) {
    if (thread() % 32 == 0) a.global[1 + blockIdx.x * 4 + threadIdx.x / 32] = atomicAdd(a.global, 1.0F);
}

/// Mistake 1: waits for the wrong parity, 2: for the other one, 3: an arrival too many, 4: no fence after the
/// initialisation, 5: no barrier after it, 6: expects more bytes than come, 7: a barrier that nobody
/// initialised.
extern "C" __global__ void aerogel_mbarriers(BrokenArgs a) {
    auto* barrier = reinterpret_cast<std::uint64_t*>(gpu::shared());
    if (thread() == 0 && a.broken != 7) {
        gpu::mbarrier_init(barrier, 1);
        gpu::mbarrier_init(barrier + 1, 64);
        if (a.broken != 4) gpu::mbarrier_fence_init();
    }
    if (a.broken != 5) __syncthreads();
    numbers()[64 + thread()] = 1;
    gpu::mbarrier_arrive(barrier + 1);
    if ((a.broken == 3 || a.broken == 6) && thread() == 0) gpu::mbarrier_expect(barrier, 16);
    if (a.broken == 3 && thread() == 0) gpu::mbarrier_arrive(barrier);
    if (a.broken == 6) gpu::mbarrier_wait(barrier, 0);
    gpu::mbarrier_wait(barrier + 1, a.broken == 2 ? 1 : 0);
    a.global[thread()] = numbers()[64 + (thread() + 32) % 64];
    if (a.broken == 1) gpu::mbarrier_wait(barrier + 1, 1 - a.broken + 1);
}

/// Mistake 1: no fence of the proxy, 2: no wgmma_fence, 3: overwrites a tile before the wait, 4: uses the
/// sums before the wait, 5: a tile outside of shared memory.
extern "C" __global__ void aerogel_products(BrokenArgs a) {
    float* tile = numbers();
    for (int i = thread(); i < 64 * 32; i += 128) tile[i] = 0;
    if (a.broken != 1) gpu::fence_async();
    __syncthreads();
    float sums[32];
    for (int i = 0; i < 32; ++i) sums[i] = 1;
    if (a.broken != 2) gpu::wgmma_fence();
    gpu::wgmma_bf16(sums, gpu::descriptor(tile), gpu::descriptor(a.broken == 5 ? tile + 256 : tile));
    gpu::wgmma_commit();
    if (a.broken == 3) tile[thread()] = 1;
    if (a.broken == 4) a.global[thread()] = sums[0];
    gpu::wgmma_wait<0>(sums);
    if (a.broken != 4) a.global[thread()] = sums[0];
}

}  // namespace aerogel::emulator
