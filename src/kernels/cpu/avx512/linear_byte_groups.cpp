// Integer schemes with groups of columns, with AVX-512 VNNI.
#include "kernels/cpu/linear_byte_groups.h"

#include "kernels/cpu/avx512/codes.h"
#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/avx512/linear_quantize.h"

namespace aerogel {
namespace {

struct Avx512ByteGroups : Avx512Codes, Avx512Floats {
    static void multiply_integers(std::int64_t rows, const Block& block) {
        multiply_block<ByteSteps, 2, static_cast<int>(kTileRows)>(rows, block);
    }
    static void quantize_row(const LinearProblem& problem, const LinearArgs& args, const QuantizedRows& rows,
                             std::int64_t i, ByteOrder order) {
        quantize_bytes(problem, args, rows, i, static_cast<char>(0x80), order);
    }
    static void rotate_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t i, float* out) {
        rotated_row(problem, args, i, out);
    }

    static I zero_integers() { return _mm512_setzero_si512(); }
    static I load_integers(const std::int32_t* at) { return _mm512_load_si512(at); }
    static void store_integers(std::int32_t* at, I x) { _mm512_store_si512(at, x); }
    static I add_integers(I a, I b) { return _mm512_add_epi32(a, b); }
    static V to_float(I x) { return _mm512_cvtepi32_ps(x); }
    static I add_bytes(I sum, I w) { return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), w); }
    static I bias_of(I sum) { return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sum, 7)); }
};

using Row = ByteGroupRow<Avx512ByteGroups>;

}  // namespace

constexpr LinearKernel avx512::kByteGroups = {"cpu.avx512.byte_groups",
                                              takes_byte_groups,
                                              Row::packed_bytes,
                                              Row::pack,
                                              Row::workspace_bytes,
                                              Row::run,
                                              true};

}  // namespace aerogel
