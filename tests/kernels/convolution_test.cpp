// Every convolution kernel of this CPU level against sums in double, within bounds computed from the data;
// odd sizes, gaps between pixels, frames before the first, poisoned margins, the same bits for any number of
// threads.
#include "kernels/convolution.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "aerogel/threads.h"
#include "kernels/cpu_kernels.h"
#include "kernels/reference/kernels.h"

namespace aerogel {
namespace {

constexpr double kUnit = 0x1p-24;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kPoison = -12345.5F;

struct ConvolutionCase {
    ConvolutionProblem problem;
    Axes x, y;
    Axes padding = {0, 0, 0};
    std::int64_t before = 0;
    bool bias = true, add = false;
};

std::vector<float> normal_floats(std::int64_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> values;
    std::vector<float> out(static_cast<std::size_t>(count));
    for (float& x : out) x = values(random);
    return out;
}

using Change = std::function<void(ConvolutionArgs&)>;

/// Arrays of one case. y has gaps of 3 floats between pixels, 5 between lines and 7 between frames.
class ConvolutionRun {
  public:
    explicit ConvolutionRun(const ConvolutionCase& c)
        : case_(c),
          x_(normal_floats(c.x.count() * c.problem.channels, 1)),
          before_(normal_floats(c.before * c.x.height * c.x.width * c.problem.channels, 2)),
          weight_(normal_floats(c.problem.out_channels * c.problem.k(), 3)),
          bias_(normal_floats(c.problem.out_channels, 4)) {
        strides_.width = c.problem.out_channels + 3;
        strides_.height = c.y.width * strides_.width + 5;
        strides_.frames = c.y.height * strides_.height + 7;
        add_ = normal_floats(c.y.frames * strides_.frames, 5);
    }

    std::vector<float> run(const ConvolutionKernel& kernel, const Change& change = {}) const {
        QuantizedTensor matrix;
        matrix.format = Format::f32;
        matrix.rows = case_.problem.out_channels;
        matrix.columns = case_.problem.k();
        matrix.data = Tensor::of(weight_, {matrix.rows, matrix.columns});
        const auto bytes = static_cast<std::int64_t>(kernel.packed_bytes(case_.problem));
        Tensor packed(DType::u8, {bytes});
        kernel.pack(case_.problem, matrix, static_cast<std::byte*>(packed.mutable_data()));
        const std::size_t scratch = kernel.workspace_bytes(case_.problem, case_.y.count());
        Tensor workspace(DType::u8, {static_cast<std::int64_t>(scratch)});
        std::vector<float> y(add_.size(), kPoison);
        each_pixel([&](const Axes&, std::int64_t at) {
            std::fill_n(y.begin() + at, case_.problem.out_channels, kNaN);
        });
        ConvolutionArgs args = arguments();
        args.y = y.data();
        args.packed = static_cast<const std::byte*>(packed.data());
        args.workspace = static_cast<std::byte*>(workspace.mutable_data());
        if (change) change(args);
        kernel.run(case_.problem, args);
        return y;
    }

    /// Elements out of bounds, and margins written to.
    int wrong(const std::vector<float>& y) const {
        int count = 0;
        std::vector<bool> margin(y.size(), true);
        each_pixel([&](const Axes& pixel, std::int64_t at) {
            for (std::int64_t n = 0; n < case_.problem.out_channels; ++n) {
                const auto here = static_cast<std::size_t>(at + n);
                margin[here] = false;
                double value = 0.0, size = 0.0;
                sum_taps(pixel, n, value, size);
                if (case_.bias) value += bias_[static_cast<std::size_t>(n)];
                if (case_.add) value += add_[here];
                size += std::fabs(value) + 2.0 * std::fabs(case_.add ? add_[here] : 0.0F);
                const double bound = static_cast<double>(case_.problem.k() + 3) * kUnit * size;
                count += !(std::fabs(y[here] - value) <= bound);
            }
        });
        for (std::size_t i = 0; i < y.size(); ++i) count += margin[i] && y[i] != kPoison;
        return count;
    }

  private:
    ConvolutionArgs arguments() const {
        ConvolutionArgs args;
        args.x = x_.data();
        args.x_size = case_.x;
        args.before = case_.before > 0 ? before_.data() : nullptr;
        args.before_frames = case_.before;
        args.padding = case_.padding;
        args.y_size = case_.y;
        args.y_strides = strides_;
        args.add = case_.add ? add_.data() : nullptr;
        args.bias = case_.bias ? bias_.data() : nullptr;
        return args;
    }

    template <typename Visit>
    void each_pixel(const Visit& visit) const {
        for (std::int64_t t = 0; t < case_.y.frames; ++t)
            for (std::int64_t i = 0; i < case_.y.height; ++i)
                for (std::int64_t j = 0; j < case_.y.width; ++j)
                    visit(Axes{t, i, j}, t * strides_.frames + i * strides_.height + j * strides_.width);
    }

    float x_at(std::int64_t t, std::int64_t i, std::int64_t j, std::int64_t c) const {
        if (case_.problem.doubled) i = i < 0 ? i : i / 2, j = j < 0 ? j : j / 2;
        if (i < 0 || j < 0 || i >= case_.x.height || j >= case_.x.width || t >= case_.x.frames) return 0.0F;
        const bool earlier = t < 0;
        if (earlier) t += case_.before;
        if (t < 0) return 0.0F;
        const std::int64_t at = ((t * case_.x.height + i) * case_.x.width + j) * case_.problem.channels + c;
        return (earlier ? before_ : x_)[static_cast<std::size_t>(at)];
    }

    void sum_taps(const Axes& pixel, std::int64_t n, double& value, double& size) const {
        const Axes& kernel = case_.problem.kernel;
        auto w = static_cast<std::size_t>(n * case_.problem.k());
        for (std::int64_t tap = 0; tap < kernel.count(); ++tap) {
            const std::int64_t t =
                pixel.frames * case_.problem.stride.frames + tap / (kernel.height * kernel.width);
            const std::int64_t i =
                pixel.height * case_.problem.stride.height + tap / kernel.width % kernel.height;
            const std::int64_t j = pixel.width * case_.problem.stride.width + tap % kernel.width;
            for (std::int64_t c = 0; c < case_.problem.channels; ++c, ++w) {
                const double term =
                    static_cast<double>(weight_[w]) *
                    x_at(t - case_.padding.frames, i - case_.padding.height, j - case_.padding.width, c);
                value += term;
                size += std::fabs(term);
            }
        }
    }

    ConvolutionCase case_;
    std::vector<float> x_, before_, weight_, bias_, add_;
    Axes strides_;
};

std::vector<ConvolutionCase> convolution_cases() {
    return {
        {{3, 5, {1, 1, 1}}, {1, 1, 1}, {1, 1, 1}},
        {{3, 7, {1, 3, 3}}, {1, 5, 9}, {1, 5, 9}, {0, 1, 1}},
        {{16, 33, {1, 3, 3}}, {1, 13, 17}, {1, 13, 17}, {0, 1, 1}, 0, true, true},
        {{13, 4, {1, 3, 3}, {1, 2, 2}}, {2, 8, 6}, {2, 4, 3}, {0, 0, 0}, 0, false},
        {{24, 40, {3, 3, 3}}, {3, 4, 5}, {3, 4, 5}, {2, 1, 1}, 0},
        {{24, 70, {3, 3, 3}}, {2, 4, 5}, {2, 4, 5}, {2, 1, 1}, 2, true, true},
        {{10, 8, {3, 3, 3}}, {2, 3, 3}, {2, 3, 3}, {2, 1, 1}, 1},
        {{32, 32, {3, 1, 1}, {2, 1, 1}}, {4, 3, 7}, {2, 3, 7}, {1, 0, 0}, 1},
        {{65, 130, {1, 2, 2}}, {1, 7, 11}, {1, 7, 11}, {0, 1, 0}},
        {{300, 12, {1, 3, 3}}, {1, 3, 40}, {1, 3, 40}, {0, 1, 1}},
        {{8, 300, {1, 1, 1}}, {1, 20, 31}, {1, 20, 31}, {0, 0, 0}, 0, false, true},
        // Doubled, with taps in time, at every border, more frames of y than of x; several panels and blocks.
        {{9, 20, {1, 3, 3}, {}, true}, {2, 5, 7}, {2, 10, 14}, {0, 1, 1}, 0, true, true},
        {{5, 6, {1, 2, 2}, {}, true}, {1, 3, 4}, {1, 6, 8}, {0, 1, 0}},
        {{12, 17, {3, 3, 3}, {2, 1, 1}}, {3, 7, 6}, {3, 10, 9}, {1, 2, 2}, 1, true, true},
        {{270, 230, {1, 3, 3}}, {1, 9, 30}, {1, 9, 30}, {0, 1, 1}, 0, true, true},
        // As many pixels as Winograd's kernels want.
        {{16, 33, {1, 3, 3}}, {1, 29, 37}, {1, 29, 37}, {0, 1, 1}, 0, true, true},
        {{24, 40, {3, 3, 3}}, {3, 18, 19}, {3, 18, 19}, {2, 1, 1}, 0},
        {{24, 70, {3, 3, 3}}, {2, 22, 23}, {2, 22, 23}, {2, 1, 1}, 2, true, true},
        {{10, 8, {3, 3, 3}}, {2, 3, 163}, {2, 3, 163}, {2, 1, 1}, 1},
        {{300, 12, {1, 3, 3}}, {1, 3, 340}, {1, 3, 340}, {0, 1, 1}},
        {{9, 20, {1, 3, 3}, {}, true}, {2, 11, 23}, {2, 22, 46}, {0, 1, 1}, 0, true, true},
        {{12, 17, {3, 3, 3}, {2, 1, 1}}, {3, 18, 15}, {3, 20, 17}, {1, 2, 2}, 1, true, true},
        {{270, 40, {1, 3, 3}}, {1, 17, 58}, {1, 17, 58}, {0, 1, 1}, 0, true, true},
        {{16, 230, {1, 3, 3}}, {1, 17, 58}, {1, 17, 58}, {0, 1, 1}, 0, true, true},
    };
}

TEST(ConvolutionKernels, WithinBounds) {
    for (const ConvolutionCase& c : convolution_cases()) {
        if (testing::is_too_large(c.problem, c.y.count())) continue;
        const ConvolutionRun run(c);
        for (const ConvolutionKernel& kernel : testing::usable(testing::machine_under_test().convolution)) {
            if (!kernel.why_not(c.problem).empty()) continue;
            EXPECT_EQ(run.wrong(run.run(kernel)), 0) << kernel.name << " " << c.problem.describe();
        }
    }
}

TEST(ConvolutionKernels, BrokenOnesAreCaught) {
    const ConvolutionKernel& kernel = reference::kConvolution;
    const ConvolutionRun run({{4, 6, {3, 3, 3}, {1, 2, 1}}, {2, 6, 8}, {1, 3, 8}, {2, 1, 1}, 2, true, true});
    EXPECT_EQ(run.wrong(run.run(kernel)), 0);
    const auto broken = [&](const Change& change) { return run.wrong(run.run(kernel, change)); };
    EXPECT_NE(broken([](ConvolutionArgs& a) { a.before = nullptr; }), 0);
    EXPECT_NE(broken([](ConvolutionArgs& a) { a.before_frames = 1; }), 0);
    EXPECT_NE(broken([](ConvolutionArgs& a) { a.padding.frames = 1; }), 0);
    EXPECT_NE(broken([](ConvolutionArgs& a) { a.padding.height = 0; }), 0);
    EXPECT_NE(broken([](ConvolutionArgs& a) { a.padding.width = 0; }), 0);
    EXPECT_NE(broken([](ConvolutionArgs& a) { a.x_size.height -= 1; }), 0);
    EXPECT_NE(broken([](ConvolutionArgs& a) { a.add = nullptr; }), 0);
    EXPECT_NE(broken([](ConvolutionArgs& a) { a.bias = nullptr; }), 0);
    EXPECT_NE(broken([](ConvolutionArgs& a) { a.y_size.width -= 1; }), 0);
    EXPECT_NE(broken([](ConvolutionArgs& a) { a.y_strides.height += 1; }), 0);
}

/// The square of the error over that of y, both summed.
double relative_error(const std::vector<float>& y, const std::vector<float>& expected) {
    double errors = 0.0, values = 0.0;
    for (std::size_t i = 0; i < y.size(); ++i) {
        if (expected[i] == kPoison) continue;
        const double off = static_cast<double>(y[i]) - static_cast<double>(expected[i]);
        errors += off * off;
        values += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
    }
    return std::sqrt(errors / values);
}

// The bound of a plain sum is far above what rounding does to normal numbers. Winograd's kernels, whose
// errors are of the size of the largest value around, are held to 3e-6, three times what float32 sums of
// 2,592 products have; points 0, 1, -1, 2, -2 would give 3.4e-6. CUDA multiplies pairs of bf16.
TEST(ConvolutionKernels, WinogradIsAlmostAsExactAsSums) {
    const ConvolutionProblem problem = {96, 40, {3, 3, 3}};
    const ConvolutionRun run({problem, {2, 22, 22}, {2, 22, 22}, {2, 1, 1}, 2});
    const std::vector<float> expected = run.run(reference::kConvolution);
    int seen = 0;
    for (const ConvolutionKernel& kernel : testing::usable(testing::machine_under_test().convolution)) {
        const bool winograd = kernel.name.find("winograd") != std::string_view::npos;
        const double sums = testing::tests_the_cpu() ? 1.5e-6 : 6e-6;
        EXPECT_LT(relative_error(run.run(kernel), expected), winograd ? 3e-6 : sums) << kernel.name;
        seen += winograd ? 1 : 0;
    }
    EXPECT_EQ(seen > 0, testing::tests_the_cpu());
    EXPECT_EQ(takes_winograd(problem), "");
    EXPECT_EQ(takes_winograd({96, 40, {3, 1, 1}}), "takes 3 x 3 taps only");
    EXPECT_EQ(takes_winograd({96, 40, {1, 3, 3}, {1, 2, 2}}), "takes no stride");
    EXPECT_EQ(takes_winograd({3, 40, {1, 3, 3}}), "takes 8 channels or more");
}

// Bringing the weights to the points costs more than a small picture gains.
TEST(ConvolutionKernels, WinogradLeavesSmallPicturesToSums) {
    const ConvolutionProblem problem = {32, 48, {1, 3, 3}};
    const auto kernels = testing::usable(testing::machine_under_test().convolution);
    int seen = 0;
    for (const ConvolutionKernel& winograd : kernels) {
        const std::string_view name = winograd.name, end = "winograd";
        if (!name.ends_with(end)) continue;
        const std::string plain_name = std::string(name.substr(0, name.size() - end.size())) + "convolution";
        for (const ConvolutionKernel& plain : kernels) {
            if (plain.name != plain_name) continue;
            const ConvolutionRun small({problem, {1, 16, 16}, {1, 16, 16}, {0, 1, 1}});
            EXPECT_EQ(small.run(winograd), small.run(plain)) << name;
            const ConvolutionRun large({problem, {1, 32, 32}, {1, 32, 32}, {0, 1, 1}});
            EXPECT_NE(large.run(winograd), large.run(plain)) << name;
            ++seen;
        }
    }
    EXPECT_GT(seen, 0);
}

TEST(ConvolutionKernels, SameBitsForAnyNumberOfThreads) {
    const ConvolutionRun run({{20, 48, {1, 3, 3}}, {1, 40, 50}, {1, 40, 50}, {0, 1, 1}});
    const int before = num_threads();
    for (const ConvolutionKernel& kernel : testing::usable(testing::machine_under_test().convolution)) {
        set_num_threads(1);
        const std::vector<float> one = run.run(kernel);
        set_num_threads(3);
        const std::vector<float> three = run.run(kernel);
        EXPECT_TRUE(std::equal(one.begin(), one.end(), three.begin())) << kernel.name;
        set_num_threads(before);
    }
}

}  // namespace
}  // namespace aerogel
