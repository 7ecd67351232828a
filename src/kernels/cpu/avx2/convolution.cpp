// Convolutions with AVX2.
#include "kernels/cpu/convolution_loops.h"

#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/linear_tile.h"
#include "kernels/cpu/avx2/vector.h"
#include "kernels/cpu/winograd_loops.h"

namespace aerogel {
namespace {

using Convolutions = ConvolutionRow<Avx2Floats>;
using Winograd = WinogradRow<Avx2, Avx2Floats>;

}  // namespace

constexpr ConvolutionKernel avx2::kConvolution = {"cpu.avx2.convolution",        takes_convolutions,
                                                  Convolutions::packed_bytes,    Convolutions::pack,
                                                  Convolutions::workspace_bytes, Convolutions::run};
constexpr ConvolutionKernel avx2::kWinograd = {"cpu.avx2.winograd",        takes_winograd,
                                               Convolutions::packed_bytes, Convolutions::pack,
                                               Winograd::workspace_bytes,  Winograd::run};

}  // namespace aerogel
