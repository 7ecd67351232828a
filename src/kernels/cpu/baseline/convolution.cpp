// Convolutions with SSE2.
#include "kernels/cpu/convolution_loops.h"

#include "kernels/cpu/baseline/kernels.h"
#include "kernels/cpu/baseline/linear_tile.h"
#include "kernels/cpu/baseline/vector.h"
#include "kernels/cpu/winograd_loops.h"

namespace aerogel {
namespace {

using Convolutions = ConvolutionRow<Sse2Floats>;
using Winograd = WinogradRow<Sse2, Sse2Floats>;

}  // namespace

constexpr ConvolutionKernel baseline::kConvolution = {"cpu.baseline.convolution",    takes_convolutions,
                                                      Convolutions::packed_bytes,    Convolutions::pack,
                                                      Convolutions::workspace_bytes, Convolutions::run};
constexpr ConvolutionKernel baseline::kWinograd = {"cpu.baseline.winograd",    takes_winograd,
                                                   Convolutions::packed_bytes, Convolutions::pack,
                                                   Winograd::workspace_bytes,  Winograd::run};

}  // namespace aerogel
