// Convolutions with AVX-512.
#include "kernels/cpu/convolution_loops.h"

#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/avx512/linear_tile.h"
#include "kernels/cpu/avx512/vector.h"
#include "kernels/cpu/winograd_loops.h"

namespace aerogel {
namespace {

using Convolutions = ConvolutionRow<Avx512Floats>;
using Winograd = WinogradRow<Avx512, Avx512Floats>;

}  // namespace

constexpr ConvolutionKernel avx512::kConvolution = {"cpu.avx512.convolution",      takes_convolutions,
                                                    Convolutions::packed_bytes,    Convolutions::pack,
                                                    Convolutions::workspace_bytes, Convolutions::run};
constexpr ConvolutionKernel avx512::kWinograd = {"cpu.avx512.winograd",      takes_winograd,
                                                 Convolutions::packed_bytes, Convolutions::pack,
                                                 Winograd::workspace_bytes,  Winograd::run};

}  // namespace aerogel
