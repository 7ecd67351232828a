// What quantize.cuh is compiled to.
#include "kernels/cuda/quantize.cuh"

using aerogel::cuda::kQuantizeThreads;
using aerogel::cuda::QuantizeArgs;
using aerogel::cuda::RowQuantizer;

#define AEROGEL_QUANTIZE(name, bytes, rotates)                                                               \
    extern "C" __global__ void __launch_bounds__(kQuantizeThreads) aerogel_quantize_##name(QuantizeArgs a) { \
        RowQuantizer<bytes, rotates>(a).run();                                                               \
    }

AEROGEL_QUANTIZE(integers, true, false)
AEROGEL_QUANTIZE(floats, false, false)
AEROGEL_QUANTIZE(rotated_integers, true, true)
AEROGEL_QUANTIZE(rotated_floats, false, true)
