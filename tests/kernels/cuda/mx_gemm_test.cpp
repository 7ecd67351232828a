// The MX products of sm_120 against plain loops, in the emulator, from x as it comes: codes and exponents
// that the quantizer leaves, tiles that y does not fill, more slabs than stages; copies that land early and
// late, several orders of warps; no bank conflict. All numbers are chosen so that sums are exact, and y must
// be equal.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "emulator/emulator.h"
#include "emulator/numbers.h"
#include "kernels/cuda/mx_args.h"
#include "kernels/cuda/slabs.h"

using aerogel::cuda::MxGemmArgs;
using aerogel::cuda::MxQuantizeArgs;

extern "C" {
void aerogel_mx_quantize(MxQuantizeArgs);
void aerogel_mx_fp8_m(MxGemmArgs);
void aerogel_mx_fp8_s(MxGemmArgs);
void aerogel_mx_fp8_fp4_m(MxGemmArgs);
void aerogel_mx_fp8_fp4_s(MxGemmArgs);
void aerogel_mx_fp4_m(MxGemmArgs);
void aerogel_mx_fp4_s(MxGemmArgs);
}

namespace aerogel::testing {
namespace {

using cuda::MxKind;
using cuda::TileShape;

struct MxEntry {
    const char* name;
    void (*kernel)(MxGemmArgs);
    TileShape tile;
    MxKind kind;

    friend void PrintTo(const MxEntry& entry, std::ostream* out) { *out << entry.name; }
};
const MxEntry kMxEntries[] = {{"fp8_m", aerogel_mx_fp8_m, cuda::kTileM, MxKind::fp8},
                              {"fp8_s", aerogel_mx_fp8_s, cuda::kTileS, MxKind::fp8},
                              {"fp8_fp4_m", aerogel_mx_fp8_fp4_m, cuda::kTileM, MxKind::fp8_fp4},
                              {"fp8_fp4_s", aerogel_mx_fp8_fp4_s, cuda::kTileS, MxKind::fp8_fp4},
                              {"fp4_m", aerogel_mx_fp4_m, cuda::kTileM, MxKind::fp4},
                              {"fp4_s", aerogel_mx_fp4_s, cuda::kTileS, MxKind::fp4}};

std::size_t at(std::int64_t i) {
    return static_cast<std::size_t>(i);
}

std::int64_t padded(std::int64_t count, std::int64_t to) {
    return (count + to - 1) / to * to;
}

class MxRun {
  public:
    MxRun(const MxEntry& entry, std::uint64_t seed)
        : entry_(entry),
          random_(seed),
          m_(entry.tile.rows + 5),
          n_(entry.tile.columns + 19),
          x_rows_(padded(m_, 128)),
          w_rows_(padded(n_, 128)) {
        for (std::int64_t i = 0; i < m_ * kColumns; ++i) x_.push_back(x_value(i / kColumns, i % kColumns));
        for (std::int64_t j = 0; j < n_; ++j) bias_.push_back(static_cast<float>(any(-4, 4)));
    }

    std::string run(std::uint64_t seed, bool late) {
        emulator::Options options;
        options.seed = seed;
        options.late = late;
        options.sm = 120;
        Slabs codes(x_rows_, kSlabs, cuda::mx_x_bytes(entry_.kind)),
            w(w_rows_, kSlabs, cuda::mx_w_bytes(entry_.kind));
        std::vector<std::uint32_t> words(at(x_rows_ * kSlabs) + 4, 0xFFFFFFFFU),  // NaN
            w_words(at(w_rows_ * kSlabs) + 4);
        std::vector<float> s_t(at(m_)), y(at(m_ * (n_ + 1)), -7.0F);
        MxQuantizeArgs q = {};
        q.row.x = x_.data();
        q.row.slabs = codes.data();
        q.row.s_t = s_t.data();
        q.row.x_stride = kColumns;
        q.row.rows = x_rows_;
        q.row.k = static_cast<std::int32_t>(kColumns);
        q.row.width = static_cast<std::int32_t>(kSlabs * 128);
        q.row.x_type = cuda::Real::f32;
        q.row.kind = entry_.kind == MxKind::fp4 ? cuda::Quantize::mxfp4 : cuda::Quantize::mxfp8;
        q.words = words_at_16(words);
        const auto rows = static_cast<unsigned>(m_);
        const std::string quantized =
            emulator::launch({{rows}, {128}, cuda::kQuantizeWords * 4 + at(padded(kColumns, 8)) * 4},
                             aerogel_mx_quantize, q, options)
                .text();
        if (!quantized.empty()) return quantized;
        fill_w(w, words_at_16(w_words));
        MxGemmArgs a = {};
        cuda::GemmArgs& g = a.gemm;
        g.x = codes.data();
        g.w = w.data();
        g.s_t = s_t.data();
        g.add = bias_.data();
        g.y = y.data();
        g.y_stride = n_ + 1;
        g.m = m_;
        g.n = n_;
        g.x_rows = x_rows_;
        g.w_rows = w_rows_;
        g.slabs = static_cast<std::int32_t>(kSlabs);
        g.row_tiles = static_cast<std::int32_t>(padded(m_, entry_.tile.rows) / entry_.tile.rows);
        g.column_tiles = static_cast<std::int32_t>(padded(n_, entry_.tile.columns) / entry_.tile.columns);
        a.x_words = words_at_16(words);
        a.w_words = words_at_16(w_words);
        const auto blocks = static_cast<unsigned>(g.row_tiles * g.column_tiles);
        const auto shared = at(cuda::mx_shared_bytes(entry_.tile, entry_.kind));
        const emulator::Report report = emulator::launch(
            {{blocks}, {static_cast<unsigned>(entry_.tile.threads)}, shared}, entry_.kernel, a, options);
        if (!report.ok()) return report.text();
        if (report.products == 0) return "no product";
        if (report.matrix_conflicts + report.shared_conflicts != 0)
            return std::to_string(report.matrix_conflicts) + " and " +
                   std::to_string(report.shared_conflicts) + " bank conflicts";
        return compare(y);
    }

  private:
    static constexpr std::int64_t kColumns = 5 * 128 + 40, kSlabs = 6;

    static std::uint32_t* words_at_16(std::vector<std::uint32_t>& words) {
        const auto here = reinterpret_cast<std::uintptr_t>(words.data());
        return words.data() + (16 - here % 16) % 16 / 4;
    }
    std::int64_t any(std::int64_t from, std::int64_t to) {
        return std::uniform_int_distribution<std::int64_t>(from, to)(random_);
    }

    /// A number that both kinds of codes hold, of blocks whose largest one tells them apart.
    float x_value(std::int64_t row, std::int64_t column) {
        const std::int64_t block = column / 32;
        const float scale = std::ldexp(1.0F, static_cast<int>((row + block * 3) % 5));
        if (column % 32 == 7) return 4 * scale;
        return static_cast<float>(any(-4, 4)) * scale;
    }

    void fill_w(Slabs& w, std::uint32_t* words) {
        w_.assign(at(n_ * kColumns), 0.0);
        for (std::int64_t j = 0; j < n_; ++j)
            for (std::int64_t p = 0; p < kColumns; ++p) {
                const std::int64_t exponent = (j + p / 32) % 3;
                const auto value = static_cast<float>(any(-4, 4));
                const bool fp4 = entry_.kind != MxKind::fp8;
                const auto bits = emulator::encode(fp4 ? emulator::kE2M1 : emulator::kE4M3, value);
                w.put_code(fp4 ? Codes::int4 : Codes::int8, j, p, bits);
                w_[at(j * kColumns + p)] = std::ldexp(static_cast<double>(value), static_cast<int>(exponent));
                if (p % 32 != 0) continue;
                auto* bytes =
                    reinterpret_cast<unsigned char*>(words + p / 128 * w_rows_ + cuda::neighbour_order(j));
                bytes[p / 32 % 4] = static_cast<unsigned char>(127 + exponent);
            }
    }

    std::string compare(const std::vector<float>& y) const {
        for (std::int64_t i = 0; i < m_; ++i)
            for (std::int64_t j = 0; j <= n_; ++j) {
                double wanted = j < n_ ? static_cast<double>(bias_[at(j)]) : -7.0;
                for (std::int64_t p = 0; j < n_ && p < kColumns; ++p)
                    wanted += static_cast<double>(x_[at(i * kColumns + p)]) * w_[at(j * kColumns + p)];
                const float got = y[at(i * (n_ + 1) + j)];
                if (got != static_cast<float>(wanted))
                    return "y[" + std::to_string(i) + "," + std::to_string(j) + "] is " +
                           std::to_string(got) + ", wanted " + std::to_string(wanted);
            }
        return "";
    }

    const MxEntry& entry_;
    std::mt19937_64 random_;
    std::int64_t m_, n_, x_rows_, w_rows_;
    std::vector<float> x_, bias_;
    std::vector<double> w_;
};

class MxGemm : public ::testing::TestWithParam<MxEntry> {};

TEST_P(MxGemm, agrees_with_plain_loops_without_races_and_conflicts) {
    EXPECT_EQ(MxRun(GetParam(), 1).run(1, true), "");
    EXPECT_EQ(MxRun(GetParam(), 2).run(2, false), "");
}

INSTANTIATE_TEST_SUITE_P(Linear, MxGemm, ::testing::ValuesIn(kMxEntries),
                         [](const auto& entry) { return std::string(entry.param.name); });

}  // namespace
}  // namespace aerogel::testing
