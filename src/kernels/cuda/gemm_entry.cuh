// The functions that the .cu files of gemm.cuh consist of.
#pragma once

#include "kernels/cuda/gemm.cuh"

namespace aerogel::cuda {

#define AEROGEL_GEMM(name, kind, tile, groups)                                          \
    extern "C" __global__ void __launch_bounds__(aerogel::cuda::tile.threads)           \
        aerogel_##name(const aerogel::cuda::GemmArgs a) {                               \
        aerogel::cuda::Gemm<aerogel::cuda::kind, aerogel::cuda::tile, groups>(a).run(); \
    }

}  // namespace aerogel::cuda
