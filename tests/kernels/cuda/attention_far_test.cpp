// Attention over rows whose offsets need more than 32 bits.
#include <gtest/gtest.h>

#include <cstdint>

#include "emulator/emulator.h"
#include "emulator/numbers.h"
#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/sparse_memory.h"

using aerogel::cuda::FloatAttentionArgs;

extern "C" {
void aerogel_attention_bf16_64(FloatAttentionArgs);
}

namespace aerogel::testing {
namespace {

/// Two heads and two tokens, of which one or the other lies far away: each query meets one key alone, that of
/// the other token.
void look_far(std::int64_t head, std::int64_t token) {
    constexpr std::int64_t kChannels = 64;
    const auto bytes = static_cast<std::size_t>(head + token + kChannels) * 2;
    const SparseMemory q(bytes), k(bytes), v(bytes), o(bytes);
    FloatAttentionArgs a = {};
    cuda::AttentionRows* const rows[] = {&a.q, &a.k, &a.v, &a.o};
    const SparseMemory* const memory[] = {&q, &k, &v, &o};
    for (int i = 0; i < 4; ++i) {
        ASSERT_TRUE(memory[i]->is_there());
        *rows[i] = {memory[i]->as<void>(), 0, head, token, 2};
    }
    const auto number = [](float x) { return static_cast<std::uint16_t>(emulator::bf16_of_float(x)); };
    for (int h = 0; h < 2; ++h) {
        for (int t = 0; t < 2; ++t) {
            const std::int64_t at = h * head + t * token;
            q.as<std::uint16_t>()[at] = number(t == 0 ? -16.0F : 16.0F);
            k.as<std::uint16_t>()[at] = number(t == 0 ? 16.0F : -16.0F);
            for (std::int64_t d = 0; d < kChannels; ++d)
                v.as<std::uint16_t>()[at + d] = number(static_cast<float>(100 * h + 10 * t + 1));
        }
    }
    a.tiles.q_len = a.tiles.k_len = a.tiles.block_q = a.tiles.block_k = a.tiles.heads = 2;
    a.factor = 1.0F;
    a.head_dim = kChannels;
    a.aligned = 1;
    a.out_bytes = 2;
    const auto shared = static_cast<std::size_t>(cuda::kNarrowShape.shared_bytes(1));
    ASSERT_EQ(emulator::launch({{2}, {32}, shared}, aerogel_attention_bf16_64, a).text(), "");
    for (int h = 0; h < 2; ++h) {
        for (int t = 0; t < 2; ++t)
            EXPECT_EQ(o.as<std::uint16_t>()[h * head + t * token],
                      number(static_cast<float>(100 * h + 10 * (1 - t) + 1)));
    }
}

TEST(AttentionProducts, offsets_beyond_32_bits) {
    constexpr std::int64_t kFar = std::int64_t{1} << 32;
    look_far(64, kFar);
    look_far(kFar, 64);
}

}  // namespace
}  // namespace aerogel::testing
