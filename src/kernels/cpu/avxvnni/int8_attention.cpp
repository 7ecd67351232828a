// Int8 attention with AVX-VNNI, blocks of 6 rows x 2 vectors: vpdpbusd sums four products of unsigned and
// signed bytes exactly. The weights are unsigned; queries get 128 added, and each key takes 128 times its own
// sum off again.
#include "kernels/cpu/attention_limits.h"
#include "kernels/cpu/avx2/int8_lanes.h"
#include "kernels/cpu/avxvnni/dot_bytes.h"
#include "kernels/cpu/avxvnni/kernels.h"
#include "kernels/cpu/int8_attention_driver.h"
#include "kernels/cpu/int8_scales.h"

namespace aerogel {
namespace {

struct VnniIntegers : Int8Lanes<static_cast<int>(kWideWeight)> {
    static constexpr bool kSigned = false;
    static constexpr std::int32_t kBias = 128;

    template <typename Byte>
    struct Bytes {
        using Value = Byte;
        static constexpr std::int64_t kDepth = 4;
        static constexpr std::int64_t kIntegers = 1;
        static constexpr int kRows = 6, kPanels = 2;
        static constexpr int kInRegisters = 2;
        static I row(const std::int32_t* x) { return broadcast(x); }
        static I dot(I sum, I x, I w) { return dot_bytes(sum, x, w); }
    };
    using Scores = Bytes<std::int8_t>;
    using Weights = Bytes<std::uint8_t>;
};

}  // namespace

constexpr AttentionKernel avxvnni::kInt8Attention = {
    .name = "cpu.avxvnni.int8_attention",
    .formats = kInt8Formats,
    .why_not = takes_up_to_256,
    .workspace_bytes = attend_quantized_workspace<VnniIntegers>,
    .run = attend_quantized<VnniIntegers>,
    .find_scales = find_scales,
    .largest_weight = kWideWeight};

}  // namespace aerogel
