// Convolutions with SSE2.
#include "kernels/cpu/convolution_loops.h"

#include "kernels/cpu/baseline/kernels.h"
#include "kernels/cpu/baseline/linear_tile.h"

namespace aerogel {
namespace {

using Convolutions = ConvolutionRow<Sse2Floats>;

}  // namespace

constexpr ConvolutionKernel baseline::kConvolution = {"cpu.baseline.convolution", Convolutions::packed_bytes,
                                                      Convolutions::pack, Convolutions::workspace_bytes,
                                                      Convolutions::run};

}  // namespace aerogel
