// Integer schemes with groups of columns, with SSE2.
#include "kernels/cpu/linear_grouped.h"

#include "kernels/cpu/baseline/codes.h"
#include "kernels/cpu/baseline/kernels.h"
#include "kernels/cpu/baseline/linear_tile.h"

namespace aerogel {
namespace {

struct Sse2Groups : Sse2Codes, Sse2Floats {};

using Row = GroupedRow<Sse2Groups>;

}  // namespace

constexpr LinearKernel baseline::kGrouped = {
    "cpu.baseline.w8a8_groups",      takes_groups,         DequantizeRow<Sse2Groups>::packed_bytes,
    DequantizeRow<Sse2Groups>::pack, Row::workspace_bytes, Row::run};

}  // namespace aerogel
