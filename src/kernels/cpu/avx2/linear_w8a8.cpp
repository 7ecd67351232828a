// W8A8 with AVX2: signed bytes by signed bytes, exact for every int8 value (signed_bytes.h).
#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/linear_quantize.h"

namespace aerogel {
namespace {

/// The weights of a step are read for each row: registers are left for x and the ones.
/// Zen 3 takes four vector instructions a cycle, and a broadcast of x is one: 3 rows x 4 vectors need half
/// those of 6 x 2.
struct SignedSteps {
    static constexpr std::int64_t kIntegers = Signed::kIntegers;

    static SignedBytes row(const std::int32_t* x) { return signed_bytes(x); }
    static __m256i dot(__m256i sum, const SignedBytes& x, const std::int32_t* w) {
        return dot_signed(sum, x, w);
    }
};

struct Avx2Bytes : ByteRows<Signed, 3, 32> {
    static void multiply_integers(std::int64_t rows, const Block& block) {
        multiply_block<SignedSteps, 3, 4>(rows, block);
    }
};

using Row = W8A8LinearRow<Avx2Bytes>;

}  // namespace

constexpr LinearKernel avx2::kW8A8 = {
    "cpu.avx2.w8a8", takes_w8a8, Row::packed_bytes, Row::pack, Row::workspace_bytes, Row::run, true};

}  // namespace aerogel
