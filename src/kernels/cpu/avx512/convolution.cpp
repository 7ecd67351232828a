// Convolutions with AVX-512.
#include "kernels/cpu/convolution_loops.h"

#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/avx512/linear_tile.h"

namespace aerogel {
namespace {

using Convolutions = ConvolutionRow<Avx512Floats>;

}  // namespace

constexpr ConvolutionKernel avx512::kConvolution = {"cpu.avx512.convolution", Convolutions::packed_bytes,
                                                    Convolutions::pack, Convolutions::workspace_bytes,
                                                    Convolutions::run};

}  // namespace aerogel
