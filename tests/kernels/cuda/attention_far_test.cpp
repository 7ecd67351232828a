// Attention over rows whose offsets need more than 32 bits.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "emulator/emulator.h"
#include "emulator/numbers.h"
#include "kernels/cuda/attention_sm90_args.h"
#include "kernels/cuda/sparse_memory.h"

using aerogel::cuda::FloatAttentionArgs;
using aerogel::cuda::HopperAttentionArgs;
using aerogel::cuda::TileRowsArgs;

extern "C" {
void aerogel_attention_bf16_64(FloatAttentionArgs);
void aerogel_attention_sm90_bf16_64_1(HopperAttentionArgs);
void aerogel_tile_rows(TileRowsArgs);
}

namespace aerogel::testing {
namespace {

constexpr std::int64_t kChannels = 64;
constexpr cuda::HopperAttentionShape kHopper = cuda::hopper_attention(kChannels, 1, 2);

std::uint16_t number(float x) {
    return static_cast<std::uint16_t>(emulator::bf16_of_float(x));
}

std::string attend(const FloatAttentionArgs& a) {
    const auto shared = static_cast<std::size_t>(cuda::kNarrowShape.shared_bytes(1));
    return emulator::launch({{2}, {32}, shared}, aerogel_attention_bf16_64, a).text();
}

std::string attend_blocks(const HopperAttentionArgs& a, unsigned maps) {
    const auto shared = static_cast<std::size_t>(kHopper.shared_bytes());
    const auto threads = static_cast<unsigned>(kHopper.threads());
    return emulator::launch({{maps}, {threads}, shared}, aerogel_attention_sm90_bf16_64_1, a).text();
}

/// The kernels of Hopper: k and v become blocks first.
std::string attend_on_hopper(const FloatAttentionArgs& rest) {
    std::vector<unsigned char> blocks(4 * cuda::kTilePart);
    HopperAttentionArgs a = {.rest = rest, .k = blocks.data(), .v = blocks.data() + 2 * cuda::kTilePart};
    a.o_in_pairs = 1;
    std::string said;
    for (const auto& [rows, to] : {std::pair{rest.k, a.k}, std::pair{rest.v, a.v}}) {
        const TileRowsArgs tiles = {.from = rows,
                                    .to = const_cast<unsigned char*>(to),
                                    .tokens = 2,
                                    .rows = 2 * cuda::kTileTokens,
                                    .head_dim = kChannels,
                                    .width = kChannels,
                                    .aligned = 1};
        said += emulator::launch({{4}, {256}}, aerogel_tile_rows, tiles).text();
    }
    return said + attend_blocks(a, 2);
}

/// Two heads and two tokens, of which one or the other lies far away: each query meets one key alone, that of
/// the other token.
void look_far(std::int64_t head, std::int64_t token, std::string (*attention)(const FloatAttentionArgs&)) {
    const auto bytes = static_cast<std::size_t>(head + token + kChannels) * 2;
    const SparseMemory q(bytes), k(bytes), v(bytes), o(bytes);
    FloatAttentionArgs a = {};
    cuda::AttentionRows* const rows[] = {&a.q, &a.k, &a.v, &a.o};
    const SparseMemory* const memory[] = {&q, &k, &v, &o};
    for (int i = 0; i < 4; ++i) {
        ASSERT_TRUE(memory[i]->is_there());
        *rows[i] = {memory[i]->as<void>(), 0, head, token, 2};
    }
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
    ASSERT_EQ(attention(a), "");
    for (int h = 0; h < 2; ++h) {
        for (int t = 0; t < 2; ++t)
            EXPECT_EQ(o.as<std::uint16_t>()[h * head + t * token],
                      number(static_cast<float>(100 * h + 10 * (1 - t) + 1)));
    }
}

TEST(AttentionProducts, offsets_beyond_32_bits) {
    look_far(64, kFar, attend);
    look_far(kFar, 64, attend);
}

TEST(HopperAttentionProducts, offsets_beyond_32_bits) {
    look_far(64, kFar, attend_on_hopper);
    look_far(kFar, 64, attend_on_hopper);
}

/// A query that sees one key, the last one of so many that the blocks before it fill 4 GiB.
TEST(HopperAttentionProducts, blocks_beyond_32_bits) {
    constexpr std::int64_t kBefore = kFar / cuda::kTileRow;
    const SparseMemory k(kFar + cuda::kTilePart), v(kFar + cuda::kTilePart);
    ASSERT_TRUE(k.is_there() && v.is_there());
    std::vector<std::uint16_t> q(kChannels), o(kChannels);
    q[0] = k.as<std::uint16_t>()[kFar / 2] = number(1.0F);
    for (std::int64_t d = 0; d < kChannels; ++d) v.as<std::uint16_t>()[kFar / 2 + d] = number(7.0F);
    const std::int64_t begin = 0, end = 1;
    const std::int32_t column = kBefore / cuda::kTileTokens;
    HopperAttentionArgs a;
    a.rest.q = {.data = q.data()};
    a.rest.o = {.data = o.data()};
    a.rest.tiles.q_len = a.rest.tiles.block_q = 1;
    a.rest.tiles.k_len = kBefore + 1;
    a.rest.tiles.block_k = cuda::kTileTokens;
    a.rest.tiles.row_start = &begin;
    a.rest.tiles.row_end = &end;
    a.rest.tiles.columns = &column;
    a.rest.head_dim = kChannels;
    a.rest.aligned = a.o_in_pairs = 1;
    a.k = k.as<unsigned char>();
    a.v = v.as<unsigned char>();
    float lse = 0.0F;
    a.rest.lse = &lse;
    ASSERT_EQ(attend_blocks(a, 1), "");
    EXPECT_EQ(o, std::vector<std::uint16_t>(kChannels, number(7.0F)));
    EXPECT_FLOAT_EQ(lse, std::log(2.0F));  // of the score 1, a power of two
}

}  // namespace
}  // namespace aerogel::testing
