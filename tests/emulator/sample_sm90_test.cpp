// The Hopper samples: TMA, mbarriers and products of warp groups against plain loops.
#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "emulator/emulator.h"
#include "emulator/kernels/sample_sm90.h"
#include "emulator/numbers.h"
#include "emulator/tensor_map.h"

namespace aerogel::emulator {

extern "C" void aerogel_sample_hopper(SampleHopperArgs args);
extern "C" void aerogel_sample_pv(SamplePvArgs args);

namespace {

constexpr int kUint8 = 0, kBfloat16 = 9;

/// A map of a [rows, columns] array whose boxes are [rows of the box, 128 bytes], swizzled.
cuda::TensorMap make_map(const void* data, int type, std::uint64_t rows, std::uint64_t columns,
                         std::uint32_t box_rows) {
    const std::uint32_t bytes = type == kUint8 ? 1 : 2;
    const std::uint64_t sizes[] = {columns, rows}, strides[] = {columns * bytes};
    const std::uint32_t box[] = {128 / bytes, box_rows}, ones[] = {1, 1};
    cuda::TensorMap map;
    const char* reason = encode_tiled(
        &map, {type, 2, const_cast<void*>(data), sizes, strides, box, ones, 0, kSwizzle128, 0, 0});
    EXPECT_EQ(reason, nullptr) << reason;
    return map;
}

void check_hopper(int m, int n, int k, const Options& options) {
    std::mt19937 random(7);
    const auto count = [](int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); };
    alignas(16) static std::int8_t x[512 * 1024], w[512 * 1024];
    std::vector<float> xs(static_cast<std::size_t>(m)), ws(static_cast<std::size_t>(n));
    std::vector<float> y(count(m, n), std::numeric_limits<float>::quiet_NaN());
    for (std::size_t i = 0; i < count(m, k); ++i) x[i] = static_cast<std::int8_t>(random() % 256);
    for (std::size_t i = 0; i < count(n, k); ++i) w[i] = static_cast<std::int8_t>(random() % 256);
    for (float& v : xs) v = static_cast<float>(random() % 1000) * 1e-4F;
    for (float& v : ws) v = static_cast<float>(random() % 1000) * 1e-5F;
    const SampleHopperArgs args{make_map(x, kUint8, static_cast<unsigned>(m), static_cast<unsigned>(k), 128),
                                make_map(w, kUint8, static_cast<unsigned>(n), static_cast<unsigned>(k), 128),
                                xs.data(),
                                ws.data(),
                                y.data(),
                                m,
                                n,
                                k};
    const Size3 grid{static_cast<unsigned>(n + 127) / 128, static_cast<unsigned>(m + 127) / 128};
    const Report report =
        launch({grid, {kHopperThreads}, kHopperShared}, aerogel_sample_hopper, args, options);
    ASSERT_TRUE(report.ok()) << report;
    int wrong = 0;
    for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
            std::int32_t sum = 0;
            for (int c = 0; c < k; ++c) sum += x[i * k + c] * w[j * k + c];
            const float expected =
                static_cast<float>(sum) * xs[static_cast<std::size_t>(i)] * ws[static_cast<std::size_t>(j)];
            wrong += !(y[static_cast<std::size_t>(i * n + j)] == expected);
        }
    }
    EXPECT_EQ(wrong, 0) << m << " x " << n << " x " << k << ", seed " << options.seed << " late "
                        << options.late;
}

TEST(EmulatorHopper, gives_the_bits_of_plain_loops) {
    for (const std::uint64_t seed : {1U, 2U, 3U}) {
        for (const bool late : {true, false}) check_hopper(77, 100, 208, {.seed = seed, .late = late});
    }
    check_hopper(200, 300, 1104, {});
}

TEST(EmulatorHopper, multiplies_registers_by_a_transposed_tile) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    alignas(16) static std::uint16_t p[64 * 64], v[64 * 128];
    for (auto& u : p) u = static_cast<std::uint16_t>(bf16_of_float(normal(random)));
    for (auto& u : v) u = static_cast<std::uint16_t>(bf16_of_float(normal(random)));
    for (const bool late : {true, false}) {
        std::vector<float> o(64 * 128, std::numeric_limits<float>::quiet_NaN());
        const SamplePvArgs args{make_map(v, kBfloat16, 64, 128, 64), p, o.data()};
        const Report report = launch({{1}, {128}, kPvShared}, aerogel_sample_pv, args, {.late = late});
        ASSERT_TRUE(report.ok()) << report;
        for (int i = 0; i < 64; ++i) {
            for (int j = 0; j < 128; ++j) {
                double sum = 0;
                for (int k = 0; k < 64; ++k) {
                    sum += static_cast<double>(float_of_bf16(p[i * 64 + k])) *
                           static_cast<double>(float_of_bf16(v[k * 128 + j]));
                }
                ASSERT_NEAR(static_cast<double>(o[static_cast<std::size_t>(i * 128 + j)]), sum, 1e-4)
                    << i << ", " << j;
            }
        }
    }
}

TEST(EmulatorHopper, an_older_card_has_none_of_it) {
    alignas(16) static std::uint16_t p[64 * 64], v[64 * 128];
    std::vector<float> o(64 * 128);
    const SamplePvArgs args{make_map(v, kBfloat16, 64, 128, 64), p, o.data()};
    const Report report = launch({{1}, {128}, kPvShared}, aerogel_sample_pv, args, {.sm = 89});
    ASSERT_EQ(report.faults.size(), 1U);
    EXPECT_NE(report.faults[0].find("an instruction of sm_90 on sm_89"), std::string::npos) << report;
}

}  // namespace
}  // namespace aerogel::emulator
