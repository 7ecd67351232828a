// Integer schemes with groups of columns, with AVX2.
#include "kernels/cpu/linear_grouped.h"

#include "kernels/cpu/avx2/codes.h"
#include "kernels/cpu/avx2/linear.h"
#include "kernels/cpu/avx2/linear_tile.h"

namespace aerogel {
namespace {

struct Avx2Groups : Avx2Codes, Avx2Floats {};

using Row = GroupedRow<Avx2Groups>;

}  // namespace

constexpr LinearKernel kAvx2Grouped = {"cpu.avx2.w8a8_groups",
                                       CpuLevel::avx2,
                                       takes_groups,
                                       DequantizeRow<Avx2Groups>::packed_bytes,
                                       DequantizeRow<Avx2Groups>::pack,
                                       Row::workspace_bytes,
                                       Row::run};

}  // namespace aerogel
