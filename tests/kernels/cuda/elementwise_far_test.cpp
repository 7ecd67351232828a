// Element-wise kernels over rows and elements whose offsets need more than 32 bits.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "emulator/emulator.h"
#include "kernels/cuda/elementwise_args.h"
#include "kernels/cuda/sparse_memory.h"

extern "C" {
void aerogel_norm(aerogel::NormArgs);
void aerogel_activation(aerogel::ActivationArgs);
void aerogel_gated(aerogel::GatedArgs);
void aerogel_rope(aerogel::RopeArgs);
void aerogel_residual(aerogel::ResidualArgs);
void aerogel_copy_f32_f32(aerogel::cuda::CopyAxesArgs);
void aerogel_softmax(aerogel::SoftmaxArgs);
}

namespace aerogel::testing {
namespace {

constexpr std::int64_t kColumns = 32;

/// Two rows, far from each other, of other numbers.
class FarRows {
  public:
    explicit FarRows(float first) : memory_((kFar + kColumns) * sizeof(float)) {
        for (int r = 0; r < 2; ++r)
            for (int c = 0; c < kColumns; ++c)
                at(r, c) = first + 0.5F * static_cast<float>(r) + 0.01F * static_cast<float>(c);
    }
    float* data() const { return memory_.as<float>(); }
    float& at(int r, int c) const { return data()[r * kFar + c]; }

    void expect(const char* what, const std::function<double(int, int)>& wanted) const {
        for (int r = 0; r < 2; ++r)
            for (int c = 0; c < kColumns; ++c)
                EXPECT_NEAR(static_cast<double>(at(r, c)), wanted(r, c), 1e-5)
                    << what << " " << r << " " << c;
    }

  private:
    SparseMemory memory_;
};

/// A block of eight warps.
template <class Args>
void run(void (*kernel)(Args), const Args& args, const emulator::Options& options = {}) {
    const emulator::Shape shape = {{options.first_block + 1}, {cuda::kElementThreads}};
    ASSERT_EQ(emulator::launch(shape, kernel, args, options).text(), "");
}

double start(double first, int r, int c) {
    return first + 0.5 * r + 0.01 * c;
}
double silu(double x) {
    return x / (1.0 + std::exp(-x));
}

TEST(Elementwise, norms_beyond_32_bits) {
    const FarRows x(1.0F), y(0.0F), scale(2.0F), shift(3.0F);
    run(aerogel_norm, {.kind = NormKind::rms,
                       .rows = 2,
                       .columns = kColumns,
                       .x = x.data(),
                       .x_stride = kFar,
                       .y = y.data(),
                       .y_stride = kFar,
                       .scale = scale.data(),
                       .shift = shift.data(),
                       .modulation_stride = kFar,
                       .epsilon = 0.0F});
    y.expect("norm", [](int r, int c) {
        double squares = 0.0;
        for (int i = 0; i < kColumns; ++i) squares += start(1.0, r, i) * start(1.0, r, i);
        return start(1.0, r, c) / std::sqrt(squares / kColumns) * (1.0 + start(2.0, r, c)) + start(3.0, r, c);
    });
}

TEST(Elementwise, softmax_beyond_32_bits) {
    const FarRows x(1.0F);
    x.at(1, 0) = 3.0F;
    run(aerogel_softmax, {.rows = 2, .columns = kColumns, .x = x.data(), .x_stride = kFar});
    const auto before = [](int r, int c) { return r == 1 && c == 0 ? 3.0 : start(1.0, r, c); };
    x.expect("softmax", [&](int r, int c) {
        double all = 0.0;
        for (int i = 0; i < kColumns; ++i) all += std::exp(before(r, i));
        return std::exp(before(r, c)) / all;
    });
}

TEST(Elementwise, products_and_sums_beyond_32_bits) {
    const FarRows gate(0.5F), x(1.0F), y(0.0F);
    run(aerogel_gated, {.rows = 2,
                        .columns = kColumns,
                        .gate = gate.data(),
                        .gate_stride = kFar,
                        .x = x.data(),
                        .x_stride = kFar,
                        .y = y.data(),
                        .y_stride = kFar});
    const auto product = [](int r, int c) { return silu(start(0.5, r, c)) * start(1.0, r, c); };
    y.expect("gated", product);
    run(aerogel_residual, {.rows = 2,
                           .columns = kColumns,
                           .x = x.data(),
                           .x_stride = kFar,
                           .y = y.data(),
                           .y_stride = kFar,
                           .gate = gate.data(),
                           .gate_stride = kFar});
    x.expect("residual", [&](int r, int c) { return start(1.0, r, c) + product(r, c) * start(0.5, r, c); });
}

/// A quarter turn: (p, q) becomes (-q, p).
TEST(Elementwise, turns_beyond_32_bits) {
    const FarRows x(1.0F);
    const std::vector<float> cos(kColumns / 2, 0.0F), sin(kColumns / 2, 1.0F);
    run(aerogel_rope, {.rows = 2,
                       .tokens = 1,
                       .heads = 1,
                       .head_dim = kColumns,
                       .x = x.data(),
                       .x_stride = kFar,
                       .cos = cos.data(),
                       .sin = sin.data()});
    x.expect("rope", [](int r, int c) { return c % 2 == 0 ? -start(1.0, r, c + 1) : start(1.0, r, c - 1); });
}

TEST(Elementwise, copies_beyond_32_bits) {
    const FarRows x(1.0F), y(0.0F);
    run(aerogel_copy_f32_f32, {.count = 2 * kColumns,
                               .axes = 2,
                               .shape = {2, kColumns},
                               .x_strides = {kFar, 1},
                               .y_strides = {kFar, 1},
                               .x = x.data(),
                               .y = y.data()});
    y.expect("copy", [](int r, int c) { return start(1.0, r, c); });
}

/// Of so many elements the last ones, by the last block.
TEST(Elementwise, elements_beyond_32_bits) {
    const FarRows x(1.0F), y(0.0F);
    run(aerogel_activation,
        {.function = ActivationFunction::silu, .x = x.data(), .y = y.data(), .count = kFar + kColumns},
        {.first_block = static_cast<unsigned>(kFar / cuda::kElementThreads)});
    y.expect("activation", [](int r, int c) { return r == 0 ? start(0.0, 0, c) : silu(start(1.0, r, c)); });
}

}  // namespace
}  // namespace aerogel::testing
