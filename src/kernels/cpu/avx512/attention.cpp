// The vector operations that attention needs, in AVX-512. Blocks of 12 rows x 2 vectors: 24 sums, two
// operands and the broadcasts fill the 32 registers.
#include "kernels/cpu/avx512/kernels.h"

#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/avx512/vector.h"

namespace aerogel {
namespace {

struct Avx512Attention : Avx512 {
    using Rows = RowList<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>;
    static constexpr std::int64_t kRows = 12;
};

}  // namespace

constexpr AttentionKernel avx512::kAttention = {.name = "cpu.avx512.attention",
                                                .formats = kFloatFormats,
                                                .why_not = takes_all,
                                                .workspace_bytes = attend_workspace<Avx512Attention>,
                                                .run = attend<Avx512Attention>};

}  // namespace aerogel
