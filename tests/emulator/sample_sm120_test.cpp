// Products of MX numbers against plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "emulator/emulator.h"
#include "emulator/kernels/sample_sm120.h"
#include "emulator/numbers.h"

namespace aerogel::emulator {

extern "C" void aerogel_sample_mx(SampleMxArgs args);

namespace {

/// The tiles of an instruction: numbers, and the registers that hold them.
struct MxTiles {
    int kind, depth;
    std::vector<float> a, b;  // [16, depth], [8, depth]
    std::vector<std::uint32_t> ra, rb, sa, sb;
    std::vector<int> scale_a, scale_b;  // exponents [16, depth / 32], [8, depth / 32]
};

/// Written out from the manual's tables, without the emulator's formulas.
MxTiles make_tiles(int kind) {
    MxTiles t{kind, kind == 2 ? 64 : 32, {}, {}, {}, {}, {}, {}, {}, {}};
    std::mt19937 random(5);
    const int per = kind == 2 ? 8 : 4, width = 32 / per;
    const auto depth = static_cast<std::size_t>(t.depth);
    t.a.resize(16 * depth);
    t.b.resize(8 * depth);
    t.ra.assign(32 * 4, 0);
    t.rb.assign(32 * 2, 0);
    t.sa.assign(32, 0xFFFFFFFFU);  // NaN wherever the instruction does not look
    t.sb.assign(32, 0xFFFFFFFFU);
    const SmallFloat format_a = kind == 2 ? kE2M1 : kE4M3, format_b = kind == 0 ? kE4M3 : kE2M1;
    const auto pattern = [&](SmallFloat f) {
        return f.exponent_bits == 2 ? random() % 16 : random() % 2 * 128 + random() % 120;
    };
    for (std::size_t row = 0; row < 24; ++row) {
        for (std::size_t k = 0; k < depth; ++k) {
            const bool is_a = row < 16;
            const SmallFloat f = is_a ? format_a : format_b;
            const auto bits = static_cast<std::uint32_t>(pattern(f));
            const std::uint32_t placed =
                (kind == 1 && !is_a ? bits << 2 : bits)
                << (k % static_cast<std::size_t>(per) * static_cast<std::size_t>(width));
            const std::size_t quad = k % (depth / 2) / static_cast<std::size_t>(per), half = k / (depth / 2);
            if (is_a) {
                t.a[row * depth + k] = decode(f, bits);
                t.ra[(row % 8 * 4 + quad) * 4 + half * 2 + row / 8] |= placed;
            } else {
                t.b[(row - 16) * depth + k] = decode(f, bits);
                t.rb[((row - 16) * 4 + quad) * 2 + half] |= placed;
            }
        }
        std::uint32_t scales = 0xFFFF0000U | (kind == 2 ? 0U : 0xFF00U);
        for (std::size_t block = 0; block < depth / 32; ++block) {
            const int exponent = static_cast<int>(random() % 9) - 4;
            (row < 16 ? t.scale_a : t.scale_b).push_back(exponent);
            scales |= static_cast<std::uint32_t>(exponent + 127) << (8 * block);
        }
        if (row < 16) {
            t.sa[row % 8 * 4 + row / 8] = scales;
        } else {
            t.sb[(row - 16) * 4] = scales;
        }
    }
    return t;
}

TEST(EmulatorMx, scales_and_multiplies) {
    for (int kind = 0; kind < 3; ++kind) {
        const MxTiles t = make_tiles(kind);
        std::vector<float> o(16 * 8, std::numeric_limits<float>::quiet_NaN());
        const SampleMxArgs args{t.ra.data(), t.rb.data(), t.sa.data(), t.sb.data(), o.data(), kind};
        const Report report = launch({{1}, {32}, 0}, aerogel_sample_mx, args, {.sm = 120});
        ASSERT_TRUE(report.ok()) << report;
        const auto depth = static_cast<std::size_t>(t.depth), blocks = depth / 32;
        for (std::size_t m = 0; m < 16; ++m) {
            for (std::size_t n = 0; n < 8; ++n) {
                double sum = 0;
                for (std::size_t k = 0; k < depth; ++k) {
                    const int exponent = t.scale_a[m * blocks + k / 32] + t.scale_b[n * blocks + k / 32];
                    sum += std::ldexp(
                        static_cast<double>(t.a[m * depth + k]) * static_cast<double>(t.b[n * depth + k]),
                        exponent);
                }
                ASSERT_FLOAT_EQ(o[m * 8 + n], static_cast<float>(sum))
                    << "kind " << kind << " at " << m << ", " << n;
            }
        }
        EXPECT_FALSE(launch({{1}, {32}, 0}, aerogel_sample_mx, args, {.sm = 90}).ok());
    }
}

}  // namespace
}  // namespace aerogel::emulator
