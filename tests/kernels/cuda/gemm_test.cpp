// Every product of the linear kernels against plain loops, in the emulator: tiles that y does not fill, more
// slabs than stages, groups that end within a slab; copies that land early and late, several orders of warps;
// no bank conflict. All numbers are chosen so that sums are exact, and y must be equal.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <string>

#include "emulator/emulator.h"
#include "emulator/numbers.h"
#include "kernels/cuda/slabs.h"
#include "kernels/cuda/sparse_memory.h"

using aerogel::cuda::GemmArgs;
using aerogel::cuda::QuantizeArgs;

extern "C" {
void aerogel_quantize_integers(QuantizeArgs);
void aerogel_w8a8_l(GemmArgs);
void aerogel_w8a8_m(GemmArgs);
void aerogel_w8a8_s(GemmArgs);
void aerogel_w8a8_t(GemmArgs);
void aerogel_w8a8_groups_m(GemmArgs);
void aerogel_w8a8_groups_s(GemmArgs);
void aerogel_w8a8_sm90(GemmArgs);
void aerogel_w4a8_l(GemmArgs);
void aerogel_w4a8_m(GemmArgs);
void aerogel_w4a8_s(GemmArgs);
void aerogel_w4a8_t(GemmArgs);
void aerogel_w4a8_groups_m(GemmArgs);
void aerogel_w4a8_groups_s(GemmArgs);
void aerogel_bf16_m(GemmArgs);
void aerogel_bf16_s(GemmArgs);
void aerogel_bf16_int8_m(GemmArgs);
void aerogel_bf16_int8_s(GemmArgs);
void aerogel_bf16_int4_m(GemmArgs);
void aerogel_bf16_int4_s(GemmArgs);
void aerogel_bf16_fp8_m(GemmArgs);
void aerogel_bf16_fp8_s(GemmArgs);
void aerogel_bf16_fp4_m(GemmArgs);
void aerogel_bf16_fp4_s(GemmArgs);
void aerogel_fp8_m(GemmArgs);
void aerogel_fp8_s(GemmArgs);
void aerogel_fp8_sm90(GemmArgs);
void aerogel_bf16_sm90(GemmArgs);
void aerogel_w8a8_groups_sm90(GemmArgs);
void aerogel_w4a8_sm90(GemmArgs);
void aerogel_w4a8_groups_sm90(GemmArgs);
void aerogel_bf16_int8_sm90(GemmArgs);
void aerogel_bf16_int4_sm90(GemmArgs);
void aerogel_bf16_fp8_sm90(GemmArgs);
void aerogel_bf16_fp4_sm90(GemmArgs);
}

namespace aerogel::testing {
namespace {

using cuda::Real;
using cuda::TileShape;

constexpr TileShape as_tile(const cuda::HopperShape& shape) {
    return {shape.rows, shape.columns, 64, shape.columns, 1, shape.stages, shape.threads};
}
constexpr TileShape kHopperWide = as_tile(cuda::kHopperWide), kHopperNarrow = as_tile(cuda::kHopperNarrow),
                    kHopperHalves = as_tile(cuda::kHopperHalves),
                    kHopperQuarters = as_tile(cuda::kHopperQuarters);

struct Entry {
    const char* name;
    void (*kernel)(GemmArgs);
    Codes codes;
    TileShape tile;
    bool groups;

    friend void PrintTo(const Entry& entry, std::ostream* out) { *out << entry.name; }
};
const Entry kEntries[] = {
    {"w8a8_l", aerogel_w8a8_l, Codes::int8, cuda::kTileL, false},
    {"w8a8_m", aerogel_w8a8_m, Codes::int8, cuda::kTileM, false},
    {"w8a8_s", aerogel_w8a8_s, Codes::int8, cuda::kTileS, false},
    {"w8a8_t", aerogel_w8a8_t, Codes::int8, cuda::kTileT, false},
    {"w8a8_groups_m", aerogel_w8a8_groups_m, Codes::int8, cuda::kTileM, true},
    {"w8a8_groups_s", aerogel_w8a8_groups_s, Codes::int8, cuda::kTileS, true},
    {"w8a8_sm90", aerogel_w8a8_sm90, Codes::int8, kHopperWide, false},
    {"w4a8_l", aerogel_w4a8_l, Codes::int4, cuda::kTileL, false},
    {"w4a8_m", aerogel_w4a8_m, Codes::int4, cuda::kTileM, false},
    {"w4a8_s", aerogel_w4a8_s, Codes::int4, cuda::kTileS, false},
    {"w4a8_t", aerogel_w4a8_t, Codes::int4, cuda::kTileT, false},
    {"w4a8_groups_m", aerogel_w4a8_groups_m, Codes::int4, cuda::kTileM, true},
    {"w4a8_groups_s", aerogel_w4a8_groups_s, Codes::int4, cuda::kTileS, true},
    {"bf16_m", aerogel_bf16_m, Codes::bf16, cuda::kTileM, false},
    {"bf16_s", aerogel_bf16_s, Codes::bf16, cuda::kTileS, false},
    {"bf16_int8_m", aerogel_bf16_int8_m, Codes::bf16_int8, cuda::kTileM, true},
    {"bf16_int8_s", aerogel_bf16_int8_s, Codes::bf16_int8, cuda::kTileS, true},
    {"bf16_int4_m", aerogel_bf16_int4_m, Codes::bf16_int4, cuda::kTileM, true},
    {"bf16_int4_s", aerogel_bf16_int4_s, Codes::bf16_int4, cuda::kTileS, true},
    {"bf16_fp8_m", aerogel_bf16_fp8_m, Codes::bf16_fp8, cuda::kTileM, true},
    {"bf16_fp8_s", aerogel_bf16_fp8_s, Codes::bf16_fp8, cuda::kTileS, true},
    {"bf16_fp4_m", aerogel_bf16_fp4_m, Codes::bf16_fp4, cuda::kTileM, true},
    {"bf16_fp4_s", aerogel_bf16_fp4_s, Codes::bf16_fp4, cuda::kTileS, true},
    {"fp8_m", aerogel_fp8_m, Codes::fp8, cuda::kTileM, true},
    {"fp8_s", aerogel_fp8_s, Codes::fp8, cuda::kTileS, true},
    {"bf16_sm90", aerogel_bf16_sm90, Codes::bf16, kHopperWide, false},
    {"fp8_sm90", aerogel_fp8_sm90, Codes::fp8, kHopperNarrow, false},
    {"w8a8_groups_sm90", aerogel_w8a8_groups_sm90, Codes::int8, kHopperWide, true},
    {"w4a8_sm90", aerogel_w4a8_sm90, Codes::int4, kHopperHalves, false},
    {"w4a8_groups_sm90", aerogel_w4a8_groups_sm90, Codes::int4, kHopperHalves, true},
    {"bf16_int8_sm90", aerogel_bf16_int8_sm90, Codes::bf16_int8, kHopperHalves, true},
    {"bf16_int4_sm90", aerogel_bf16_int4_sm90, Codes::bf16_int4, kHopperQuarters, true},
    {"bf16_fp8_sm90", aerogel_bf16_fp8_sm90, Codes::bf16_fp8, kHopperHalves, true},
    {"bf16_fp4_sm90", aerogel_bf16_fp4_sm90, Codes::bf16_fp4, kHopperQuarters, true},
};

bool on_hopper(const Entry& entry) {
    return entry.tile.threads == cuda::kHopperWide.threads;
}

std::size_t shared_bytes(const Entry& entry) {
    if (on_hopper(entry)) {
        const int row_bytes = static_cast<int>(row_bytes_of(entry.codes));
        return static_cast<std::size_t>(
            cuda::hopper_shape(entry.tile.columns, entry.tile.stages, row_bytes).shared_bytes);
    }
    const std::int64_t stage = entry.tile.rows * 128 + entry.tile.columns * row_bytes_of(entry.codes);
    return static_cast<std::size_t>(entry.tile.stages * stage + entry.tile.columns * 8);
}

std::size_t at(std::int64_t i) {
    return static_cast<std::size_t>(i);
}

/// A way to run an entry.
struct Turn {
    std::uint64_t seed;
    bool late;
    Real y;
    bool fixed, bias, e5m2, wide;
};

class Products {
  public:
    Products(const Entry& entry, const Turn& turn) : entry_(entry), turn_(turn), random_(turn.seed) {
        const bool integers = is_integer(entry.codes);
        step_ = integers || entry.codes == Codes::fp8 ? 32 : 16;
        m = entry.tile.rows + 7;
        n = entry.tile.columns + 21;
        group_steps = !entry.groups ? 4 * kSlabs : turn.wide ? 11 : 3;
        if (integers && entry.groups && on_hopper(entry))
            group_steps = std::min<std::int64_t>(group_steps, 4);
        groups = entry.groups ? (4 * kSlabs - 1) / group_steps : 1;
        if (entry.codes == Codes::fp8) group_steps = 4, groups = kSlabs;
        columns = 4 * kSlabs * step_;
        x_rows = padded(m, entry.tile.rows);
        w_rows = padded(n, 256);
    }

    std::string run() {
        Slabs x(x_rows, kSlabs, 128), w(w_rows, kSlabs, row_bytes_of(entry_.codes));
        fill(x, w);
        const std::int64_t stride = n + 3;
        const bool narrow = turn_.y != Real::f32;
        std::vector<std::uint32_t> y(at(m * stride), 0x7FC07FC0U);
        GemmArgs a = arguments();
        a.x = x.data();
        a.w = w.data();
        a.y = y.data();
        a.y_stride = narrow ? 2 * stride : stride;
        a.y_aligned = a.y_stride * (narrow ? 2 : 4) % 16 == 0;
        emulator::Options options;
        options.seed = turn_.seed;
        options.late = turn_.late;
        const bool hopper = on_hopper(entry_);
        const auto blocks = static_cast<unsigned>(hopper ? 3 : a.row_tiles * a.column_tiles);
        const emulator::Report report =
            emulator::launch({{blocks}, {static_cast<unsigned>(entry_.tile.threads)}, shared_bytes(entry_)},
                             entry_.kernel, a, options);
        if (!report.ok()) return report.text();
        if (report.products == 0) return "no product";
        if (report.matrix_conflicts + report.shared_conflicts != 0)
            return std::to_string(report.matrix_conflicts) + " and " +
                   std::to_string(report.shared_conflicts) + " bank conflicts";
        return compare(y, stride);
    }

  private:
    static constexpr std::int64_t kSlabs = 7;  // more than there are stages

    static std::int64_t padded(std::int64_t count, std::int64_t to) { return (count + to - 1) / to * to; }
    std::int64_t any(std::int64_t from, std::int64_t to) {
        return std::uniform_int_distribution<std::int64_t>(from, to)(random_);
    }

    bool e5m2() const { return turn_.e5m2 && entry_.codes != Codes::fp8; }

    /// A code, and the number that it stands for in `value`.
    std::uint32_t code(double& value) {
        switch (entry_.codes) {
            case Codes::int8:
            case Codes::bf16_int8: {
                const std::int64_t q = any(-128, 127);
                value = static_cast<double>(q);
                return static_cast<std::uint32_t>(q);
            }
            case Codes::int4:
            case Codes::bf16_int4: {
                const std::int64_t q = any(-8, 7);
                value = static_cast<double>(q);
                return static_cast<std::uint32_t>(entry_.codes == Codes::int4 ? q : q + 8);
            }
            case Codes::bf16: {
                value = static_cast<double>(any(-100, 100)) / 4;
                return emulator::bf16_of_float(static_cast<float>(value));
            }
            case Codes::bf16_fp4: {
                const auto bits = static_cast<std::uint32_t>(any(0, 15));
                value = static_cast<double>(emulator::decode(emulator::kE2M1, bits));
                return bits;
            }
            case Codes::fp8:
            case Codes::bf16_fp8:
                break;
        }
        // From 1/8 to 16, or denormal.
        const std::uint32_t magnitude = e5m2() ? static_cast<std::uint32_t>(any(0x30, 0x4C))
                                               : static_cast<std::uint32_t>(any(0x20, 0x58));
        const auto bits = magnitude | static_cast<std::uint32_t>(any(0, 1)) << 7;
        value = static_cast<double>(emulator::decode(e5m2() ? emulator::kE5M2 : emulator::kE4M3, bits));
        return bits;
    }

    void fill(Slabs& x, Slabs& w) {
        const bool integers = is_integer(entry_.codes);
        for (std::int64_t i = 0; i < m * columns; ++i) {
            const std::int64_t q = integers ? any(-128, 127) : any(-8, 8);
            x_.push_back(static_cast<double>(q));
            if (integers) {
                x.put_byte(i / columns, i % columns, static_cast<std::uint8_t>(q));
            } else if (entry_.codes == Codes::fp8) {
                x.put_byte(
                    i / columns, i % columns,
                    static_cast<std::uint8_t>(emulator::encode(emulator::kE4M3, static_cast<float>(q))));
            } else {
                x.put_half(i / columns, i % columns, emulator::bf16_of_float(static_cast<float>(q)));
            }
        }
        for (std::int64_t i = 0; i < n * columns; ++i) {
            double value = 0;
            w.put_code(entry_.codes, i / columns, i % columns, code(value));
            w_.push_back(value);
        }
        const bool offsets = entry_.codes == Codes::bf16_int8 || entry_.codes == Codes::bf16_int4;
        scale_.assign(at(groups * w_rows), 0);
        offset_.assign(at(groups * w_rows), 0);
        for (std::int64_t g = 0; g < groups; ++g)
            for (std::int64_t j = 0; j < n; ++j) {
                scale_[at(g * w_rows + j)] = integers ? static_cast<float>(any(1, 1000)) * 1e-5F
                                                      : std::ldexp(1.0F, static_cast<int>(any(-2, 2)));
                if (offsets && turn_.bias)
                    offset_[at(g * w_rows + cuda::neighbour_order(j))] = static_cast<float>(any(-128, 127));
            }
        for (std::int64_t i = 0; i < m; ++i)
            s_t_.push_back(integers ? 0.25F + static_cast<float>(i) * 0.01F : 0.5F);
        for (std::int64_t j = 0; j < n; ++j) {
            bias_.push_back(static_cast<float>(any(-50, 50)));
            quant_bias_.push_back(static_cast<std::int32_t>(j == 2 ? 2147483647 : any(-100000, 100000)));
        }
    }

    GemmArgs arguments() const {
        GemmArgs a = {};
        a.s_t = turn_.fixed ? nullptr : s_t_.data();
        a.scale = entry_.codes == Codes::bf16 ? nullptr : scale_.data();
        a.offset = turn_.bias && (entry_.codes == Codes::bf16_int8 || entry_.codes == Codes::bf16_int4)
                       ? offset_.data()
                       : nullptr;
        if (turn_.fixed) {
            a.add = quant_bias_.data();
        } else if (turn_.bias) {
            a.add = bias_.data();
        }
        a.m = m;
        a.n = n;
        a.x_rows = x_rows;
        a.w_rows = w_rows;
        a.pairs = 1;
        a.slabs = static_cast<std::int32_t>(kSlabs);
        a.groups = static_cast<std::int32_t>(groups);
        a.group_steps = static_cast<std::int32_t>(group_steps);
        a.wide = turn_.wide;
        a.fixed = turn_.fixed;
        a.e5m2 = turn_.e5m2;
        a.row_tiles = static_cast<std::int32_t>(padded(m, entry_.tile.rows) / entry_.tile.rows);
        a.column_tiles = static_cast<std::int32_t>(padded(n, entry_.tile.columns) / entry_.tile.columns);
        a.y_type = turn_.y;
        return a;
    }

    /// x w^T over columns of a group; w without its offset.
    double sum(std::int64_t i, std::int64_t j, std::int64_t g) const {
        double result = 0;
        const std::int64_t width = group_steps * step_, first = g * width;
        const double offset = static_cast<double>(offset_[at(g * w_rows + cuda::neighbour_order(j))]);
        for (std::int64_t p = first; p < std::min(first + width, columns); ++p)
            result += x_[at(i * columns + p)] * (w_[at(j * columns + p)] - offset);
        return result;
    }

    float wanted(std::int64_t i, std::int64_t j) const {
        if (turn_.fixed) {
            const auto shifted = static_cast<std::uint32_t>(static_cast<std::int32_t>(sum(i, j, 0))) +
                                 static_cast<std::uint32_t>(quant_bias_[at(j)]);
            return static_cast<float>(static_cast<std::int32_t>(shifted)) * scale_[at(j)];
        }
        float y = 0;
        for (std::int64_t g = 0; g < groups; ++g) {
            const bool none = entry_.codes == Codes::bf16 || entry_.codes == Codes::fp8;
            const float scale = none ? 1.0F : scale_[at(g * w_rows + j)];
            const float part = static_cast<float>(sum(i, j, g)) * scale;
            y = groups == 1 ? part : y + part;
        }
        if (entry_.codes == Codes::fp8) y *= scale_[at(j)];
        y *= s_t_[at(i)];
        return turn_.bias ? y + bias_[at(j)] : y;
    }

    std::string compare(const std::vector<std::uint32_t>& y, std::int64_t stride) const {
        for (std::int64_t i = 0; i < m; ++i) {
            for (std::int64_t j = 0; j < stride; ++j) {
                const std::uint32_t word = y[at(turn_.y == Real::f32 ? i * stride + j : i * stride + j / 2)];
                const std::uint32_t got = turn_.y == Real::f32 ? word
                                          : j % 2 == 0         ? word & 0xFFFF
                                                               : word >> 16;
                std::uint32_t want = turn_.y == Real::f32 ? 0x7FC07FC0U : 0x7FC0U;
                if (j < n) {
                    const float value = wanted(i, j);
                    want = turn_.y == Real::f32    ? std::bit_cast<std::uint32_t>(value)
                           : turn_.y == Real::bf16 ? emulator::bf16_of_float(value)
                                                   : emulator::encode(emulator::kF16, value);
                }
                if (got != want)
                    return "y[" + std::to_string(i) + "," + std::to_string(j) + "] has bits " +
                           std::to_string(got) + ", wanted " + std::to_string(want);
            }
        }
        return "";
    }

    const Entry& entry_;
    const Turn& turn_;
    std::mt19937_64 random_;
    std::int64_t step_, m, n, columns, groups, group_steps, x_rows, w_rows;
    std::vector<double> x_, w_;
    std::vector<float> scale_, offset_, s_t_, bias_;
    std::vector<std::int32_t> quant_bias_;
};

class Gemm : public ::testing::TestWithParam<Entry> {};

TEST_P(Gemm, agrees_with_plain_loops_without_races_and_conflicts) {
    const Entry& entry = GetParam();
    const bool fixed = is_integer(entry.codes) && !entry.groups;
    const Turn turns[] = {{1, true, Real::f32, false, true, false, false},
                          {2, false, Real::bf16, fixed, false, true, true},
                          {3, true, Real::f16, fixed, true, true, false}};
    for (const Turn& turn : turns) EXPECT_EQ(Products(entry, turn).run(), "") << "seed " << turn.seed;
}

INSTANTIATE_TEST_SUITE_P(Linear, Gemm, ::testing::ValuesIn(kEntries),
                         [](const auto& entry) { return std::string(entry.param.name); });

/// Two rows of x and y that lie 2^32 elements apart, slabs of 2^32 bytes.
TEST(LinearProducts, offsets_beyond_32_bits) {
    constexpr std::int64_t kFar = std::int64_t{1} << 32, kRows = kFar / 128;
    const SparseMemory x(at(kFar) + 4096), slabs(at(3 * kFar)), w(at(2 * kFar) + 8192),
        y(at(kFar * 4) + 4096);
    ASSERT_TRUE(x.is_there());
    ASSERT_TRUE(slabs.is_there());
    ASSERT_TRUE(w.is_there());
    ASSERT_TRUE(y.is_there());
    auto* bf16 = x.as<std::uint16_t>();
    for (std::int64_t p = 0; p < 256; ++p) {
        bf16[p] = p < 128 ? 0x3F80 : 0xBF80;  // 1 and -1
        bf16[kFar / 2 + p] = 0x4000;
    }
    float s_t[2] = {};
    QuantizeArgs q = {};
    q.x = x.as<void>();
    q.slabs = slabs.as<unsigned char>();
    q.s_t = s_t;
    q.x_stride = kFar / 2;
    q.rows = kRows;
    q.k = q.width = 256;
    q.x_type = Real::bf16;
    q.top = 127;
    ASSERT_EQ(
        emulator::launch({{2}, {64}, cuda::kQuantizeWords * 4 + 1024}, aerogel_quantize_integers, q).text(),
        "");
    for (std::int64_t slab = 0; slab < 2; ++slab)
        for (std::int64_t j = 0; j < 32; ++j)
            std::fill_n(w.as<unsigned char>() + slab * kFar + j * 128, 128,
                        static_cast<unsigned char>(slab + 1));
    const std::vector<float> scale(32, 1.0F);
    GemmArgs a = {};
    a.x = q.slabs;
    a.w = w.as<unsigned char>();
    a.s_t = s_t;
    a.scale = scale.data();
    a.y = y.as<void>();
    a.y_stride = kFar;
    a.m = 2;
    a.n = 32;
    a.x_rows = a.w_rows = kRows;
    a.pairs = a.row_tiles = a.column_tiles = a.groups = 1;
    a.slabs = 2;
    const std::size_t shared = 6 * (16 + 32) * 128 + 32 * 8;
    ASSERT_EQ(emulator::launch({{1}, {128}, shared}, aerogel_w8a8_t, a).text(), "");
    EXPECT_EQ(y.as<float>()[31], 127 * 128 * (1 - 2) * s_t[0]);
    EXPECT_EQ(y.as<float>()[kFar + 31], 127 * 128 * (1 + 2) * s_t[1]);
}

}  // namespace
}  // namespace aerogel::testing
