// Philox4x32-10 counters -> uniforms -> Box-Muller pairs.
#include "base/random.h"

#include <array>
#include <cmath>
#include <numbers>

namespace aerogel {
namespace {

using Block = std::array<std::uint32_t, 4>;

Block philox(Block counter, std::uint64_t seed) {
    auto key0 = static_cast<std::uint32_t>(seed);
    auto key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * counter[0];
        const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * counter[2];
        counter = {static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key0, static_cast<std::uint32_t>(p1),
                   static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key1, static_cast<std::uint32_t>(p0)};
        key0 += 0x9E3779B9U;
        key1 += 0xBB67AE85U;
    }
    return counter;
}

// (0, 1]: never zero, so the logarithm is finite.
double uniform(std::uint32_t bits) {
    return (static_cast<double>(bits) + 1.0) / 4294967296.0;
}

}  // namespace

void fill_normal(std::span<float> out, std::uint64_t seed, std::uint64_t stream) {
    for (std::size_t i = 0; i < out.size(); i += 4) {
        const std::uint64_t index = i / 4;
        const Block bits =
            philox({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                    static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                   seed);
        for (std::size_t pair = 0; pair < 2; ++pair) {
            const double radius = std::sqrt(-2.0 * std::log(uniform(bits[2 * pair])));
            const double angle = 2.0 * std::numbers::pi * uniform(bits[2 * pair + 1]);
            if (i + 2 * pair < out.size()) out[i + 2 * pair] = static_cast<float>(radius * std::cos(angle));
            if (i + 2 * pair + 1 < out.size())
                out[i + 2 * pair + 1] = static_cast<float>(radius * std::sin(angle));
        }
    }
}

}  // namespace aerogel
