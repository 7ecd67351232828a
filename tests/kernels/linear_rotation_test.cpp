// Linear kernels that rotate rows on their way, or put their columns in order, give the bits of rows that
// came so.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "aerogel/number_types.h"
#include "formats/mx.h"
#include "kernels/cpu_kernels.h"
#include "ops/hadamard.h"
#include "ops/workspace.h"

namespace aerogel {
namespace {

struct Case {
    LinearProblem problem;
    RotationShape shape;
    bool factors;
};

Tensor random(DType dtype, const Shape& shape, unsigned seed) {
    Tensor values(DType::f32, shape);
    std::mt19937 bits(seed);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < values.count(); ++i)
        values.mutable_as<float>()[i] = normal(bits) * (bits() % 40 == 0 ? 30.0F : 1.0F);
    return values.to(dtype);
}

QuantizedTensor random_weight(const LinearProblem& problem) {
    QuantizedTensor weight;
    weight.format = problem.weight;
    weight.rows = problem.n;
    weight.columns = problem.k;
    weight.group_size = problem.group_size;
    if (problem.weight == Format::mxfp8) {
        weight.data = random(DType::f32, {problem.n, problem.k}, 5).to(DType::f8_e4m3);
        weight.scale = Tensor::zeros(DType::u8, {problem.n, problem.k / kMxBlock});
        std::memset(weight.scale.mutable_data(), 125, weight.scale.bytes());
        return weight;
    }
    const bool nibbles = problem.weight == Format::int4;
    weight.data = Tensor(nibbles ? DType::u8 : DType::i8, {problem.n, nibbles ? problem.k / 2 : problem.k});
    std::mt19937 bits(5);
    for (std::size_t i = 0; i < weight.data.bytes(); ++i)
        static_cast<std::uint8_t*>(weight.data.mutable_data())[i] = static_cast<std::uint8_t>(bits());
    const std::int64_t groups = problem.group_size == 0 ? 1 : problem.k / problem.group_size;
    weight.scale = random(DType::f32, {problem.n, groups}, 6);
    return weight;
}

std::vector<float> run(const LinearKernel& kernel, LinearProblem problem, const Tensor& x,
                       const RowRotation& rotation, const std::int32_t* order = nullptr) {
    problem.rotated = rotation.shape.block != 0;
    problem.x = x.dtype();
    LinearProblem packing = problem;
    packing.m = 0;
    Tensor packed(DType::u8, {static_cast<std::int64_t>(kernel.packed_bytes(packing))});
    kernel.pack(packing, random_weight(problem), static_cast<std::byte*>(packed.mutable_data()));
    std::vector<float> y(static_cast<std::size_t>(problem.m * problem.n), 12345.0F);
    const Workspace memory(kernel.workspace_bytes(problem), Device{});
    std::memset(memory.data(), 0xFF, kernel.workspace_bytes(problem));
    LinearArgs args;
    args.x = x.data();
    args.x_stride = problem.k;
    args.rotation = rotation;
    args.column_order = order;
    args.y = y.data();
    args.y_stride = problem.n;
    args.packed = static_cast<const std::byte*>(packed.data());
    args.workspace = memory.data();
    kernel.run(problem, args);
    return y;
}

std::string check(const LinearKernel& kernel, const Case& c, DType type) {
    const Tensor x = random(type, {c.problem.m, c.problem.k}, 1);
    const Tensor factors = c.factors ? random(DType::f32, {c.problem.k}, 2) : Tensor();
    Tensor rotated(DType::f32, x.shape());
    hadamard_rows(x.to(DType::f32), rotated, c.shape, factors);
    const auto before = run(kernel, c.problem, rotated, {});
    const auto within = run(kernel, c.problem, x, {c.shape, c.factors ? factors.as<float>() : nullptr});
    return before == within ? "" : c.problem.describe();
}

Tensor gathered(const Tensor& x, const std::vector<std::int32_t>& order) {
    const Tensor from = x.to(DType::f32);
    Tensor to(DType::f32, x.shape());
    const std::int64_t k = x.dim(1);
    for (std::int64_t i = 0; i < x.count(); ++i)
        to.mutable_as<float>()[i] = from.as<float>()[i / k * k + order[static_cast<std::size_t>(i % k)]];
    return to.to(x.dtype());
}

std::string check_order(const LinearKernel& kernel, const Case& c, DType type) {
    const Tensor x = random(type, {c.problem.m, c.problem.k}, 1);
    const Tensor factors = random(DType::f32, {c.problem.k}, 2);
    std::vector<std::int32_t> order(static_cast<std::size_t>(c.problem.k));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(3));
    for (const RowRotation& rotation : {RowRotation{}, RowRotation{c.shape, factors.as<float>()}}) {
        if (rotation.shape.block != 0 && !kernel.rotates) continue;
        const auto before = run(kernel, c.problem, gathered(x, order), rotation);
        if (before != run(kernel, c.problem, x, rotation, order.data()))
            return c.problem.describe() + " block " + std::to_string(rotation.shape.block);
    }
    return "";
}

std::vector<Case> cases() {
    std::vector<Case> all;
    bool factors = false;
    for (const Format weight : {Format::int8, Format::int4}) {
        for (const std::int64_t group : {0, 64}) {
            for (const RotationShape shape :
                 {RotationShape{RotationKind::convrot, 256}, RotationShape{RotationKind::convrot, 64},
                  RotationShape{RotationKind::convrot, 4}, RotationShape{RotationKind::hadamard, 64},
                  RotationShape{RotationKind::hadamard, 2}}) {
                LinearProblem problem;
                problem.m = 19;
                problem.n = 53;
                problem.k = shape.block == 256 ? 1280 : 192;
                problem.weight = weight;
                problem.activation =
                    weight == Format::int8 ? Activation::per_token : Activation::per_token_int4;
                problem.group_size = group;
                all.push_back({problem, shape, factors = !factors});
                if (group == 0 || shape.block != 64) continue;
                problem.activation = Activation::none;
                all.push_back({problem, shape, factors});
                problem.weight = Format::mxfp8;
                problem.activation = Activation::mxfp8;
                problem.group_size = kMxBlock;
                all.push_back({problem, shape, factors});
            }
        }
    }
    return all;
}

TEST(LinearRotation, KernelsRotateOnTheirWay) {
    int tried = 0;
    for (const Case& c : cases()) {
        for (const LinearKernel& kernel : testing::usable(testing::machine_under_test().linear, c.problem)) {
            if (!kernel.rotates || c.shape.block > kernel.most_rotated) continue;
            ++tried;
            for (const DType type : {DType::f32, kernel.f16 ? DType::f16 : DType::bf16})
                EXPECT_EQ(check(kernel, c, type), "") << kernel.name << " block " << c.shape.block;
        }
    }
    if (tried == 0) GTEST_SKIP() << "no kernel of this level rotates";
}

TEST(LinearRotation, KernelsOrderOnTheirWay) {
    for (const Case& c : cases()) {
        if (c.shape.block != 64 || c.problem.k != 192) continue;
        for (const LinearKernel& kernel : testing::usable(testing::machine_under_test().linear, c.problem)) {
            if (!kernel.orders) continue;
            for (const DType type : {DType::f32, kernel.f16 ? DType::f16 : DType::bf16})
                EXPECT_EQ(check_order(kernel, c, type), "") << kernel.name;
        }
    }
}

}  // namespace
}  // namespace aerogel
