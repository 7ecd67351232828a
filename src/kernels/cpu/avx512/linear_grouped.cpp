// Integer schemes with groups of columns, with AVX-512.
#include "kernels/cpu/linear_grouped.h"

#include "kernels/cpu/avx512/codes.h"
#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/avx512/linear_tile.h"

namespace aerogel {
namespace {

struct Avx512Groups : Avx512Codes, Avx512Floats {};

using Row = GroupedRow<Avx512Groups>;

}  // namespace

constexpr LinearKernel avx512::kGrouped = {
    "cpu.avx512.w8a8_groups",          takes_groups,         DequantizeRow<Avx512Groups>::packed_bytes,
    DequantizeRow<Avx512Groups>::pack, Row::workspace_bytes, Row::run};

}  // namespace aerogel
