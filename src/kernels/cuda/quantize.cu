// What quantize.cuh is compiled to.
#include "kernels/cuda/quantize.cuh"

using aerogel::cuda::kQuantizeThreads;
using aerogel::cuda::QuantizeArgs;
using aerogel::cuda::RowQuantizer;

extern "C" __global__ void __launch_bounds__(kQuantizeThreads) aerogel_quantize_integers(QuantizeArgs a) {
    RowQuantizer<true>(a).run();
}

extern "C" __global__ void __launch_bounds__(kQuantizeThreads) aerogel_quantize_floats(QuantizeArgs a) {
    RowQuantizer<false>(a).run();
}
