// The vector operations that attention needs, in SSE2. Blocks of 5 rows x 2 vectors: 10 sums, two operands,
// a broadcast and two products of the 16 registers.
#include "kernels/cpu/baseline/kernels.h"

#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/baseline/vector.h"

namespace aerogel {
namespace {

struct Sse2Attention : Sse2 {
    using Sse2::load_part;
    using Sse2::store_part;
    using Rows = RowList<1, 2, 3, 4, 5>;
    static constexpr std::int64_t kRows = 5;

    static V load_part(const Bf16Bits* p, std::int64_t count) {
        alignas(8) Bf16Bits part[kLanes] = {};
        if (count != kLanes) {
            for (std::int64_t i = 0; i < count; ++i) part[i] = p[i];
            p = part;
        }
        const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
        return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), bits));
    }
    /// Rounds to nearest, ties to even; NaN becomes the quiet NaN 0x7fc0.
    static void store_part(Bf16Bits* p, std::int64_t count, V x) {
        alignas(16) std::uint32_t bits[kLanes];
        _mm_store_si128(reinterpret_cast<__m128i*>(bits), _mm_castps_si128(x));
        for (std::int64_t i = 0; i < count; ++i) {
            const bool nan = (bits[i] & 0x7FFFFFFFU) > 0x7F800000U;
            const std::uint32_t rounded = bits[i] + 0x7FFFU + ((bits[i] >> 16) & 1U);
            p[i].bits = static_cast<std::uint16_t>(nan ? 0x7FC0U : rounded >> 16);
        }
    }

    static void transpose(V* rows) { _MM_TRANSPOSE4_PS(rows[0], rows[1], rows[2], rows[3]); }
};

}  // namespace

constexpr AttentionKernel baseline::kAttention = {.name = "cpu.baseline.attention",
                                                  .formats = kFloatFormats,
                                                  .why_not = takes_all,
                                                  .workspace_bytes = attend_workspace<Sse2Attention>,
                                                  .run = attend<Sse2Attention>};

}  // namespace aerogel
