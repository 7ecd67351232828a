// Integer schemes with groups of columns, with AVX-VNNI.
#include "kernels/cpu/avx2/byte_groups.h"
#include "kernels/cpu/avxvnni/byte_steps.h"
#include "kernels/cpu/avxvnni/kernels.h"

namespace aerogel {
namespace {

struct VnniGroups : ByteGroups {
    static void multiply_integers(std::int64_t rows, const Block& block) {
        multiply_block<ByteSteps>(rows, block);
    }
};

using Row = ByteGroupRow<VnniGroups>;

}  // namespace

constexpr LinearKernel avxvnni::kByteGroups = {"cpu.avxvnni.byte_groups",
                                               takes_byte_groups,
                                               Row::packed_bytes,
                                               Row::pack,
                                               Row::workspace_bytes,
                                               Row::run,
                                               true};

}  // namespace aerogel
