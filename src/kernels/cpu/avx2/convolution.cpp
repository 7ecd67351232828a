// Convolutions with AVX2.
#include "kernels/cpu/convolution_loops.h"

#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/linear_tile.h"

namespace aerogel {
namespace {

using Convolutions = ConvolutionRow<Avx2Floats>;

}  // namespace

constexpr ConvolutionKernel avx2::kConvolution = {"cpu.avx2.convolution", Convolutions::packed_bytes,
                                                  Convolutions::pack, Convolutions::workspace_bytes,
                                                  Convolutions::run};

}  // namespace aerogel
