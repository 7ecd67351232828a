// W4A8 and W4A4 with groups of columns, with AVX2. Groups of int8 weights are multiplied as floats, which
// takes no longer.
#include "kernels/cpu/avx2/byte_groups.h"
#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/nibble_steps.h"

namespace aerogel {
namespace {

struct NibbleGroups : ByteGroups {
    static void multiply_integers(std::int64_t rows, const Block& block) { multiply_nibbles(rows, block); }
};

using Row = ByteGroupRow<NibbleGroups>;

}  // namespace

constexpr LinearKernel avx2::kNibbleGroups = {"cpu.avx2.nibble_groups",
                                              takes_nibble_groups,
                                              Row::packed_bytes,
                                              Row::pack,
                                              Row::workspace_bytes,
                                              Row::run,
                                              true};

}  // namespace aerogel
