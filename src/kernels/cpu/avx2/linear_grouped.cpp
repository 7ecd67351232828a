// Integer schemes with groups of columns, with AVX2.
#include "kernels/cpu/linear_grouped.h"

#include "kernels/cpu/avx2/codes.h"
#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/linear_tile.h"

namespace aerogel {
namespace {

struct Avx2Groups : Avx2Codes, Avx2Floats {};

using Row = GroupedRow<Avx2Groups>;

}  // namespace

constexpr LinearKernel avx2::kGrouped = {
    "cpu.avx2.w8a8_groups",          takes_groups,         DequantizeRow<Avx2Groups>::packed_bytes,
    DequantizeRow<Avx2Groups>::pack, Row::workspace_bytes, Row::run};

}  // namespace aerogel
