// The emulator runs a whole kernel: the sample product against plain loops, for both times of landing and
// several orders.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "emulator/emulator.h"
#include "emulator/kernels/sample_w8a8.h"
#include "emulator/memory.h"

namespace aerogel::emulator {

extern "C" void aerogel_sample_quantize(SampleQuantizeArgs args);
extern "C" void aerogel_sample_w8a8(SampleW8A8Args args);

namespace {

struct Sample {
    int m, n, k;
    std::vector<float> x, xs, ws, bias, y;
    std::vector<std::int8_t> q, w;
};

std::size_t area(int a, int b) {
    return static_cast<std::size_t>(a) * static_cast<std::size_t>(b);
}

Sample make_sample(int m, int n, int k) {
    Sample s{m, n, k, {}, {}, {}, {}, {}, {}, {}};
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    s.x.resize(area(m, k));
    s.w.resize(area(n, k));
    s.q.resize(area(m, k));
    s.xs.resize(static_cast<std::size_t>(m));
    s.ws.resize(static_cast<std::size_t>(n));
    s.bias.resize(static_cast<std::size_t>(n));
    s.y.assign(area(m, n), std::numeric_limits<float>::quiet_NaN());
    for (float& v : s.x) v = normal(random);
    for (auto& v : s.w) v = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
    for (float& v : s.ws) v = static_cast<float>(random() % 1000) * 1e-5F;
    for (float& v : s.bias) v = normal(random);
    return s;
}

Report run_sample(Sample& s, Options options) {
    options.foreign_memory = false;
    const Allocation x(s.x), q(s.q), w(s.w), xs(s.xs), ws(s.ws), bias(s.bias), y(s.y);
    Report report = launch({{static_cast<unsigned>(s.m)}, {32}, 0}, aerogel_sample_quantize,
                           {s.x.data(), s.q.data(), s.xs.data(), s.k}, options);
    if (!report.ok()) return report;
    const Size3 grid{static_cast<unsigned>(s.n + 127) / 128, static_cast<unsigned>(s.m + 127) / 128};
    return launch(
        {grid, {kSampleThreads}, kSampleShared}, aerogel_sample_w8a8,
        {s.q.data(), s.w.data(), s.xs.data(), s.ws.data(), s.bias.data(), s.y.data(), s.m, s.n, s.k},
        options);
}

int wrong_results(const Sample& s) {
    int wrong = 0;
    for (int i = 0; i < s.m; ++i) {
        const float* x = &s.x[area(i, s.k)];
        float most = 0;
        for (int c = 0; c < s.k; ++c) most = std::max(most, std::fabs(x[c]));
        const float scale = most / 127.0F;
        for (int c = 0; c < s.k; ++c) {
            wrong += static_cast<float>(s.q[area(i, s.k) + static_cast<std::size_t>(c)]) !=
                     std::nearbyint(x[c] / scale);
        }
        for (int j = 0; j < s.n; ++j) {
            std::int32_t sum = 0;
            for (int c = 0; c < s.k; ++c) {
                const auto at = static_cast<std::size_t>(c);
                sum += s.q[area(i, s.k) + at] * s.w[area(j, s.k) + at];
            }
            const auto column = static_cast<std::size_t>(j);
            const float expected = static_cast<float>(sum) * scale * s.ws[column] + s.bias[column];
            wrong += !(s.y[area(i, s.n) + column] == expected);
        }
    }
    return wrong;
}

TEST(EmulatorSample, gives_the_bits_of_plain_loops) {
    for (const std::uint64_t seed : {1U, 2U, 3U}) {
        for (const bool late : {true, false}) {
            Sample s = make_sample(77, 100, 208);
            const Report report = run_sample(s, {.seed = seed, .late = late});
            EXPECT_TRUE(report.ok()) << report;
            EXPECT_EQ(wrong_results(s), 0) << "seed " << seed << " late " << late;
            EXPECT_EQ(report.matrix_conflicts, 0U);
            EXPECT_GT(report.matrix_loads, 0U);
        }
    }
}

TEST(EmulatorSample, runs_several_blocks) {
    Sample s = make_sample(256, 256, 512);
    const Report report = run_sample(s, {});
    EXPECT_TRUE(report.ok()) << report;
    EXPECT_EQ(wrong_results(s), 0);
    EXPECT_EQ(report.blocks, 4U);
}

}  // namespace
}  // namespace aerogel::emulator
