// The checks of element-wise operations, and what they make of views.
#include "ops/elementwise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "core/views.h"

namespace aerogel {
namespace {

Tensor counted(const Shape& shape) {
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    return Tensor::of(values, shape);
}

std::string message(const std::function<void()>& call) {
    try {
        call();
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "no error";
}

TEST(Elementwise, SaysWhatDoesNotFit) {
    Tensor x = counted({4, 6}), other = counted({4, 5}), two = counted({2, 6}), three = counted({3, 6});
    TensorView elsewhere = x;
    elsewhere.device = Device::cuda;
    TensorView gaps = part_of(x.view(), 0, {2, 3}, {6, 2});
    EXPECT_EQ(message([&] { norm({.x = x, .y = other}); }), "[norm] y must be like x, got f32[4,5] on cpu");
    EXPECT_EQ(
        message([&] { norm({.x = gaps, .y = other}); }),
        "[norm] x must be f32, or bf16 on the CPU, [rows,columns] with contiguous rows, got f32[2,3] on "
        "cpu");
    Tensor halves(DType::bf16, {4, 6});
    EXPECT_EQ(message([&] { norm({.x = halves, .y = x}); }), "[norm] y must be like x, got f32[4,6] on cpu");
    EXPECT_EQ(message([&] { norm({.x = x, .y = x, .weight = two}); }),
              "[norm] weight must be contiguous f32[6] on cpu, got f32[2,6] on cpu");
    EXPECT_EQ(
        message([&] { norm({.x = x, .y = x, .scale = three}); }),
        "[norm] scale must be f32 [parts,6] on cpu, with parts that divide 4 rows, got f32[3,6] on cpu");
    EXPECT_EQ(message([&] { norm({.x = x, .y = x, .scale = two, .shift = x}); }),
              "[norm] shift must be like scale f32[2,6], got f32[4,6] on cpu");
    EXPECT_EQ(message([&] { activation(ActivationFunction::silu, x, other); }),
              "[activation] y must be contiguous f32[4,6] on cpu, got f32[4,5] on cpu");
    EXPECT_EQ(message([&] { gated(ActivationFunction::silu, x, other, x); }),
              "[gated] x must be like gate f32[4,6] on cpu, got f32[4,5] on cpu");
    EXPECT_EQ(message([&] { gated(ActivationFunction::silu, x, x, other); }),
              "[gated] y must be like gate f32[4,6] on cpu, got f32[4,5] on cpu");
    EXPECT_EQ(message([&] {
                  rope({x, two, two, 2});
              }),
              "[rope] heads must divide the columns into even sizes, got 2 heads (x f32[4,6])");
    EXPECT_EQ(message([&] {
                  rope({x, two, two, 1});
              }),
              "[rope] cos must be contiguous f32[2,3] on cpu, got f32[2,6] on cpu");
    EXPECT_EQ(message([&] { match_norms(x, other); }),
              "[match_norms] like must be contiguous f32[4,6] on cpu, got f32[4,5] on cpu");
    EXPECT_EQ(message([&] { residual(x, elsewhere); }),
              "[residual] y must be like x f32[4,6] on cpu, or one row of it, got f32[4,6] on cuda:0");
    EXPECT_EQ(
        message([&] { residual(x, x, three); }),
        "[residual] gate must be f32 [parts,6] on cpu, with parts that divide 4 rows, got f32[3,6] on cpu");
    EXPECT_EQ(message([&] {
                  combine({{1.0, other}}, x);
              }),
              "[combine] x must be contiguous f32[4,6] on cpu, got f32[4,5] on cpu");
    EXPECT_EQ(message([&] { combine({}, x); }), "[combine] takes 1 to 5 terms, got 0");
    EXPECT_EQ(message([&] { copy(x, other); }),
              "[copy] y must be f32, bf16 or f16 [4,6], got f32[4,5] on cpu");
    EXPECT_EQ(message([&] {
                  copy(x, Tensor(DType::i32, {4, 6}));
              }),
              "[copy] y must be f32, bf16 or f16 [4,6], got i32[4,6] on cpu");
    EXPECT_EQ(message([&] { all_finite(gaps); }),
              "[all_finite] x must be contiguous f32, got f32[2,3] on cpu");
}

TEST(Elementwise, CopiesJoinAxesAndRound) {
    const Tensor x = counted({2, 3, 4});
    Tensor y = Tensor::zeros(DType::bf16, {4, 2, 3}), back = Tensor::zeros(DType::f32, {2, 3, 4});
    copy(part_of(x.view(), 0, {4, 2, 3}, {1, 12, 4}), y);
    EXPECT_EQ(to_float(y.as<BFloat16>()[1 * 6 + 1 * 3 + 2]), 21.0F);
    copy(y, part_of(back.mutable_view(), 0, {4, 2, 3}, {1, 12, 4}));
    EXPECT_EQ(back.values(), x.values());
    Tensor rows = Tensor::zeros(DType::f32, {3, 4});
    copy(part_of(x.view(), 4, {3, 4}, {0, 1}), rows);  // one row for all
    EXPECT_EQ(rows.values(), (std::vector<float>{4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7}));
    Tensor one = Tensor::zeros(DType::f32, {1, 1});
    copy(part_of(x.view(), 23, {1, 1}), one);
    EXPECT_EQ(one.values(), std::vector<float>{23.0F});
    Tensor none(DType::f32, {0, 4});
    copy(part_of(x.view(), 0, {0, 4}), none);
    clear(rows);
    EXPECT_EQ(rows.values(), std::vector<float>(12, 0.0F));
}

TEST(Elementwise, PartsOfModulationBelongToTheirRows) {
    const Tensor modulation = counted({2, 3, 2});  // [parts, rows per part, columns]
    Tensor x = Tensor::zeros(DType::f32, {4, 2});
    const Tensor ones = Tensor::of(std::vector<float>(2, 1.0F), {1, 2});
    residual(x, ones, part_of(modulation.view(), 2, {2, 2}, {6, 1}));
    EXPECT_EQ(x.values(), (std::vector<float>{2, 3, 2, 3, 8, 9, 8, 9}));
    Tensor y = Tensor::zeros(DType::f32, {4, 2});
    norm({.x = ones.reshaped({1, 2}),
          .y = rows_of(y.mutable_view(), 0, 1),
          .shift = part_of(modulation.view(), 4, {1, 2})});
    EXPECT_EQ(y.values()[0], 4.0F);
    EXPECT_EQ(y.values()[1], 5.0F);
}

TEST(Elementwise, HalvesOfAnArrayAreGatedAndRotated) {
    Tensor x = Tensor::of(std::vector<float>{0, 1e4F, 2, 3, 1e4F, 0, 4, 5}, {2, 4});
    const MutableView gate = part_of(x.mutable_view(), 0, {2, 2}, {4, 1});
    gated(ActivationFunction::silu, gate, part_of(x.view(), 2, {2, 2}, {4, 1}), gate);
    EXPECT_EQ(x.values(), (std::vector<float>{0, 3e4F, 2, 3, 4e4F, 0, 4, 5}));
    Tensor y = counted({1, 4});
    const Tensor none = Tensor::zeros(DType::f32, {1, 2}), one = Tensor::of(std::vector<float>{1, 1}, {1, 2});
    rope({.x = y, .cos = none, .sin = one, .pairs = RopePairs::halves});
    EXPECT_EQ(y.values(), (std::vector<float>{-2, -3, 0, 1}));
}

/// Rows with a gap behind each, all of them NaN until written; of bfloat16.
struct BFloat16Rows {
    BFloat16Rows(std::int64_t rows, std::int64_t columns) : array(DType::bf16, {rows, columns + 3}) {
        std::memset(array.mutable_data(), 0xFF, array.bytes());
    }
    MutableView view() {
        return part_of(array.mutable_view(), 0, {array.shape()[0], array.shape()[1] - 3},
                       {array.shape()[1], 1});
    }
    BFloat16& at(std::int64_t row, std::int64_t column) {
        return array.mutable_as<BFloat16>()[row * array.shape()[1] + column];
    }
    void fill(float step) {
        const std::int64_t columns = array.shape()[1] - 3;
        for (std::int64_t i = 0; i < array.shape()[0] * columns; ++i)
            at(i / columns, i % columns) = to_bfloat16(static_cast<float>(i % 997 - 498) * step);
    }

    Tensor array;
};

double gelu_erf_of(double x) {
    return x * std::erfc(-x / std::sqrt(2.0)) / 2;
}

TEST(Elementwise, UnitsOfBFloat16AreRoundedOnce) {
    // 5000 columns are three pieces; of the narrow ones several rows are a task.
    for (const auto& [rows, columns] : {std::pair{3, 5000}, {130, 65}, {1, 1}, {2, 2048}}) {
        BFloat16Rows gate(rows, columns), x(rows, columns), y(rows, columns);
        gate.fill(0.013F);
        x.fill(-0.7F);
        gated(ActivationFunction::gelu_erf, gate.view(), x.view(), y.view());
        for (std::int64_t row = 0; row < rows; ++row) {
            for (std::int64_t column = 0; column < columns; ++column) {
                const double wanted = gelu_erf_of(to_float(gate.at(row, column))) *
                                      static_cast<double>(to_float(x.at(row, column)));
                EXPECT_NEAR(to_float(y.at(row, column)), wanted, std::abs(wanted) * 0x1.02p-8 + 1e-30)
                    << row << ' ' << column;
            }
            for (std::int64_t gap = columns; gap < columns + 3; ++gap) EXPECT_EQ(y.at(row, gap).bits, 0xFFFF);
        }
        gated(ActivationFunction::gelu_erf, gate.view(), x.view(), x.view());
        EXPECT_EQ(std::memcmp(x.array.data(), y.array.data(), y.array.bytes()), 0);
    }
}

TEST(Elementwise, FunctionsOfBFloat16InPlace) {
    const float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> values = {0.0F, -0.0F, infinity, 3e38F, -3e38F, -1.5F, std::nanf("")};
    values.resize(4099, 0.75F);
    Tensor x = Tensor::of(values, {4099}), wanted = x, halves(DType::bf16, {4099});
    copy(x, halves);
    Tensor rounded(DType::f32, {4099});
    copy(halves, rounded);
    activation(ActivationFunction::silu, rounded, wanted);
    activation(ActivationFunction::silu, halves, halves);
    for (std::int64_t i = 0; i < 4099; ++i)
        EXPECT_EQ(halves.as<BFloat16>()[i].bits, to_bfloat16(wanted.as<float>()[i]).bits) << i;
    Tensor f16(DType::f16, {4});
    EXPECT_EQ(message([&] { activation(ActivationFunction::silu, f16, f16); }),
              "[activation] x must be contiguous f32, or bf16 on the CPU, got f16[4] on cpu");
    EXPECT_EQ(message([&] { activation(ActivationFunction::silu, halves, x); }),
              "[activation] y must be contiguous bf16[4099] on cpu, got f32[4099] on cpu");
}

TEST(Elementwise, NormsOfBFloat16AreThoseOfFloat32Rounded) {
    for (const auto& [rows, columns, parts] :
         {std::tuple{4, 5000, 2}, {130, 65, 1}, {6, 1, 3}, {1, 1536, 1}}) {
        BFloat16Rows x(rows, columns), y(rows, columns);
        x.fill(0.013F);
        Tensor wide(DType::f32, {rows, columns});
        copy(x.view(), wide);
        Tensor weight = counted({columns}), modulation = counted({parts, 2, columns});
        Norm args = {.x = wide, .y = wide, .weight = weight, .bias = weight, .silu = true};
        args.scale = part_of(modulation.view(), 0, {parts, columns}, {2 * columns, 1});
        args.shift = part_of(modulation.view(), columns, {parts, columns}, {2 * columns, 1});
        norm(args);
        args.x = x.view();
        args.y = y.view();
        norm(args);
        for (std::int64_t row = 0; row < rows; ++row) {
            for (std::int64_t i = 0; i < columns; ++i)
                EXPECT_EQ(y.at(row, i).bits, to_bfloat16(wide.as<float>()[row * columns + i]).bits)
                    << row << ' ' << i;
            for (std::int64_t gap = columns; gap < columns + 3; ++gap) EXPECT_EQ(y.at(row, gap).bits, 0xFFFF);
        }
        args.y = x.view();
        norm(args);
        EXPECT_EQ(std::memcmp(x.array.data(), y.array.data(), y.array.bytes()), 0);
    }
}

TEST(Elementwise, ACallMayHaveLessThreads) {
    set_num_threads(4);
    std::vector<int> seen;
    run_operation(
        [&] {
            seen.push_back(num_threads());
            run_operation([&] { seen.push_back(num_threads()); });
            run_operation([&] { seen.push_back(num_threads()); }, 3);
            std::vector<int> workers(1000, -1);
            parallel_for(1000,
                         [&](std::int64_t i, int worker) { workers[static_cast<std::size_t>(i)] = worker; });
            EXPECT_GE(*std::min_element(workers.begin(), workers.end()), 0);
            EXPECT_LE(*std::max_element(workers.begin(), workers.end()), 1);
        },
        2);
    EXPECT_EQ(seen, (std::vector<int>{2, 2, 2}));
    run_operation([&] { EXPECT_EQ(num_threads(), 4); }, 9);
    set_num_threads(2);
}

}  // namespace
}  // namespace aerogel
