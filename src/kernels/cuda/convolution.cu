// The tiles of convolution.cuh.
#include "kernels/cuda/convolution.cuh"

namespace cuda = aerogel::cuda;

#define AEROGEL_CONVOLUTION(name, tile)                                   \
    extern "C" __global__ void __launch_bounds__(cuda::tile.threads)      \
        aerogel_convolution_##name(const cuda::ConvolutionKernelArgs a) { \
        cuda::Convolver<cuda::tile>(a).run();                             \
    }

AEROGEL_CONVOLUTION(wide, kWideConvolution)
AEROGEL_CONVOLUTION(narrow, kNarrowConvolution)
AEROGEL_CONVOLUTION(exact, kExactConvolution)
