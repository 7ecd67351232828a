// W8A8 with AVX-VNNI. vpdpbusd multiplies unsigned by signed bytes, so x_q + 128 is stored and
// 128 * sum_k w comes off again in the epilogue: exact for every int8 value, int32 wraps around.
#include "kernels/cpu/avx2/linear_quantize.h"
#include "kernels/cpu/avxvnni/byte_steps.h"
#include "kernels/cpu/avxvnni/kernels.h"

namespace aerogel {
namespace {

struct VnniBytes : ByteRows<Biased> {
    static void multiply_integers(std::int64_t rows, const Block& block) {
        multiply_block<ByteSteps>(rows, block);
    }
};

using Row = W8A8LinearRow<VnniBytes>;

}  // namespace

constexpr LinearKernel avxvnni::kW8A8 = {
    "cpu.avxvnni.w8a8", takes_w8a8, Row::packed_bytes, Row::pack, Row::workspace_bytes, Row::run, true};

}  // namespace aerogel
