// W4A8 and W4A4 with AVX2.
#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/linear_quantize.h"
#include "kernels/cpu/avx2/nibble_steps.h"

namespace aerogel {
namespace {

struct Avx2Nibbles : ByteRows<Biased> {
    static void multiply_integers(std::int64_t rows, const Block& block) { multiply_nibbles(rows, block); }
};

using Row = W8A8LinearRow<Avx2Nibbles>;

}  // namespace

constexpr LinearKernel avx2::kW4A8 = {
    "cpu.avx2.w4a8", takes_w4a8, Row::packed_bytes, Row::pack, Row::workspace_bytes, Row::run, true};

}  // namespace aerogel
