// Conformance of the linear kernels: every kernel this machine runs, over the problem file, against the
// reference; the reference against sums written out here; and the comparison itself against broken kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "aerogel/number_types.h"
#include "aerogel/threads.h"
#include "base/cpu_features.h"
#include "kernels/cpu_kernels.h"
#include "kernels/linear_cases.h"
#include "kernels/reference/kernels.h"

namespace aerogel::testing {
namespace {

const LinearKernel& reference() {
    return reference::kLinear;
}

QuantizedTensor integer_weight(const LinearProblem& p, const std::vector<float>& values) {
    QuantizedTensor weight;
    weight.format = p.weight;
    weight.rows = p.n;
    weight.columns = p.k;
    const bool halves = p.weight == Format::int4;
    weight.data = Tensor::zeros(halves ? DType::u8 : DType::i8, {p.n, halves ? p.k / 2 : p.k});
    auto* bytes = static_cast<std::uint8_t*>(weight.data.mutable_data());
    for (std::size_t i = 0; i < values.size(); ++i) {
        const auto byte = static_cast<std::uint8_t>(static_cast<std::int8_t>(values[i]));
        if (halves) {
            bytes[i / 2] |= static_cast<std::uint8_t>((byte & 0xF) << (i % 2 * 4));
        } else {
            bytes[i] = byte;
        }
    }
    weight.scale = Tensor::zeros(DType::f32, {p.n, 1});
    return weight;
}

/// y of per_tensor activations where nothing is scaled or added.
std::vector<float> run_static(const LinearKernel& kernel, const LinearProblem& p, const std::vector<float>& x,
                              const QuantizedTensor& weight) {
    const std::vector<float> deq_scale(static_cast<std::size_t>(p.n), 1.0F);
    const std::vector<std::int32_t> quant_bias(static_cast<std::size_t>(p.n));
    Tensor packed(DType::u8, {static_cast<std::int64_t>(kernel.packed_bytes(p))});
    Tensor workspace(DType::u8, {static_cast<std::int64_t>(kernel.workspace_bytes(p)) + 64});
    Tensor y(p.y, {p.m, p.n});
    std::memset(y.mutable_data(), 0xFF, y.bytes());  // NaN
    kernel.pack(p, weight, static_cast<std::byte*>(packed.mutable_data()));
    LinearArgs args;
    args.x = x.data();
    args.x_stride = p.k;
    args.y = y.mutable_data();
    args.y_stride = p.n;
    args.packed = static_cast<const std::byte*>(packed.data());
    args.quant_bias = quant_bias.data();
    args.deq_scale = deq_scale.data();
    args.workspace = static_cast<std::byte*>(workspace.mutable_data());
    kernel.run(p, args);
    return y.to(DType::f32).values();
}

/// Few rows run the same kernels on Hopper as on every card, but for fp8 (docs/cuda.md): one of four such
/// problems is enough where kernels are emulated.
bool is_repeated(const LinearKernel& kernel, const LinearProblem& problem, int number) {
    const bool hopper = kernel.name.starts_with("cuda.sm90.") && kernel.name != "cuda.sm90.fp8";
    return takes_time() && hopper && problem.m <= 64 && number % 4 != 0;
}

TEST(LinearKernels, EveryKernelAgreesWithTheReference) {
    int runs = 0, number = 0;
    std::map<std::pair<Format, Activation>, std::set<Fill>> met;
    for (const LinearShape& shape : linear_shapes()) {
        if (shape.speed) continue;
        for (const LinearCase& c : linear_cases(shape)) {
            ++number;
            const auto kernels = usable(machine_under_test().linear, c.problem);
            if (kernels.empty()) continue;
            const LinearArrays arrays(c);
            for (const LinearKernel& kernel : kernels) {
                if (is_repeated(kernel, c.problem, number)) continue;
                EXPECT_EQ(arrays.check(kernel), "");
                ++runs;
                met[{c.problem.weight, c.problem.activation}].insert(c.fill);
                const bool small = shape.m * shape.n * shape.k < 100'000;
                if (!kernel.f16 || c.problem.x != DType::bf16 || !small) continue;
                LinearCase half = c;
                half.problem.x = DType::f16;
                EXPECT_EQ(LinearArrays(half).check(kernel), "");
            }
        }
    }
    for (const auto& [scheme, fills] : met)
        EXPECT_EQ(fills.size(), 3U) << static_cast<int>(scheme.first) << " "
                                    << static_cast<int>(scheme.second);
    if (tests_the_cpu()) {
        EXPECT_GT(runs, 500);
    }
}

/// The row of that name, or null where this process may not run it.
const LinearKernel* find(std::string_view name) {
    for (const LinearKernel& kernel : usable(machine_under_test().linear))
        if (kernel.name == name) return &kernel;
    return nullptr;
}

TEST(LinearKernels, FloatsMeetBfloat16WeightsWithTheBitsOfTheFloatKernel) {
    const LinearKernel* pairs = find("cpu.avx512_bf16.bf16");
    if (pairs == nullptr) GTEST_SKIP() << "the CPU level has no vdpbf16ps";
    const LinearKernel* floats = find("cpu.avx512.f32");
    for (const LinearShape& shape : {LinearShape{37, 130, 515, 0, false}, LinearShape{3, 33, 1024, 0, false},
                                     LinearShape{300, 70, 700, 0, false}}) {
        for (LinearCase c : linear_cases(shape)) {
            if (c.problem.weight != Format::bf16) continue;
            c.mul_scale = c.problem.x == DType::bf16;
            const LinearArrays arrays(c);
            std::string complaint;
            const std::vector<float> wanted = arrays.run(*floats, complaint);
            const std::vector<float> got = arrays.run(*pairs, complaint);
            EXPECT_EQ(complaint, "");
            for (std::size_t i = 0; i < got.size(); ++i)
                ASSERT_TRUE(got[i] == wanted[i] || (std::isnan(got[i]) && std::isnan(wanted[i])))
                    << c.describe() << " element " << i;
        }
    }
}

TEST(LinearKernels, ReferenceComesLastAndTakesEverything) {
    EXPECT_EQ(cpu::kMachine.linear.back().kernel, &reference());
    EXPECT_EQ(cpu::kMachine.linear.back().level, static_cast<int>(CpuLevel::baseline));
    EXPECT_EQ(reference().name, "reference.linear");
    for (const LinearCase& c : linear_cases({3, 5, 8, 4, false}))
        EXPECT_EQ(reference().why_not(c.problem), "");
}

TEST(LinearKernels, RefusalsDependOnWeightAndActivationOnly) {
    for (const LinearCase& c : linear_cases({3, 5, 8, 4, false})) {
        for (const LinearKernel& kernel : every(cpu::kMachine.linear)) {
            LinearProblem other = c.problem;
            other.m = 0;
            other.x = DType::f32;
            other.y = DType::bf16;
            EXPECT_EQ(kernel.why_not(c.problem), kernel.why_not(other)) << kernel.name;
        }
    }
}

TEST(LinearKernels, PackedFormServesBothQuantizedActivations) {
    for (const LinearKernel& kernel : every(cpu::kMachine.linear)) {
        LinearProblem dynamic = {0, 33,   70, DType::f32, DType::f32, Format::int8, Activation::per_token,
                                 0, false};
        LinearProblem fixed = dynamic;
        fixed.activation = Activation::per_tensor;
        EXPECT_EQ(kernel.why_not(dynamic), kernel.why_not(fixed));
        EXPECT_EQ(kernel.packed_bytes(dynamic), kernel.packed_bytes(fixed)) << kernel.name;
    }
}

TEST(LinearKernels, PackedFormServesBothActivationsOfInt4) {
    LinearProblem bytes{.n = 33, .k = 70, .weight = Format::int4, .activation = Activation::per_token};
    LinearProblem nibbles = bytes;
    nibbles.activation = Activation::per_token_int4;
    for (const LinearKernel& kernel : every(cpu::kMachine.linear)) {
        EXPECT_EQ(kernel.why_not(bytes), kernel.why_not(nibbles)) << kernel.name;
        EXPECT_EQ(kernel.packed_bytes(bytes), kernel.packed_bytes(nibbles)) << kernel.name;
    }
}

TEST(LinearKernels, LimitsNameTheReason) {
    LinearProblem p = {4, 8, 131072, DType::f32, DType::f32, Format::int8, Activation::per_token, 0, false};
    EXPECT_EQ(linear_limits(p), "int32 sums hold k up to 131071");
    p.k = 131071;
    EXPECT_EQ(linear_limits(p), "");
    p.weight_offset = true;
    EXPECT_EQ(linear_limits(p), "quantized activations need weights without an offset");
    p.weight_offset = false;
    p.activation = Activation::per_tensor;
    p.group_size = 32;
    EXPECT_EQ(linear_limits(p), "per_tensor activations need one weight scale per row");
    p.activation = Activation::mxfp8;
    EXPECT_EQ(linear_limits(p), "mxfp8 activations need mxfp8 or mxfp4 or mxfp4_dual weights");
    p = {4, 8, 16, DType::f16, DType::f32, Format::f32, Activation::none, 0, false};
    EXPECT_EQ(linear_limits(p), "takes x of f32 or bf16 only");
    EXPECT_EQ(linear_limits(p, true), "");
    p = {4, 8, 16, DType::f32, DType::f64, Format::f32, Activation::none, 0, false};
    EXPECT_EQ(linear_limits(p), "takes y of f32, bf16 or f16 only");
}

TEST(LinearKernels, SumsOfTheLargestKAreExact) {
    LinearCase c;
    c.problem = {3, 6, 131071, DType::f32, DType::f32, Format::int8, Activation::per_tensor, 0, false};
    c.fill = Fill::extreme;
    const LinearArrays arrays(c);
    for (const LinearKernel& kernel : usable(machine_under_test().linear, c.problem)) {
        EXPECT_EQ(arrays.check(kernel), "");
    }
}

/// x_q of a row or weights of a column: `value` alone, then among the ends of its range.
float near_ends(int value, int p, int lowest) {
    if (p < 128 || p % 3 != 0) return static_cast<float>(value);
    return static_cast<float>(p % 2 == 0 ? lowest : -lowest - 1);
}

TEST(LinearKernels, EveryPairOfIntegersIsMultipliedExactly) {
    constexpr int kColumns = 200;
    for (const Format format : {Format::int8, Format::int4}) {
        const int lowest = format == Format::int8 ? -128 : -8;
        LinearProblem p{.m = 256, .n = -2 * lowest, .k = kColumns, .weight = format};
        p.activation = Activation::per_tensor;
        std::vector<float> x(static_cast<std::size_t>(p.m * p.k)), w(static_cast<std::size_t>(p.n * p.k));
        for (std::size_t i = 0; i < x.size(); ++i)
            x[i] = near_ends(static_cast<int>(i) / kColumns - 128, static_cast<int>(i) % kColumns, -128);
        for (std::size_t i = 0; i < w.size(); ++i)
            w[i] = near_ends(static_cast<int>(i) / kColumns + lowest, static_cast<int>(i) % kColumns, lowest);
        for (const LinearKernel& kernel : usable(machine_under_test().linear, p)) {
            const std::vector<float> y = run_static(kernel, p, x, integer_weight(p, w));
            std::int64_t wrong = 0;
            for (std::int64_t i = 0; i < p.m; ++i) {
                for (std::int64_t j = 0; j < p.n; ++j) {
                    const float* row = x.data() + i * p.k;
                    const float sum = std::inner_product(row, row + p.k, w.data() + j * p.k, 0.0F);
                    wrong += y[static_cast<std::size_t>(i * p.n + j)] != sum;
                }
            }
            EXPECT_EQ(wrong, 0) << kernel.name << " " << p.describe();
        }
    }
}

TEST(LinearKernels, TiesBetweenHalfNumbersGoToTheEvenOne) {
    LinearProblem p{.m = 256, .n = 256, .k = 1, .weight = Format::int8};
    p.activation = Activation::per_tensor;
    std::vector<float> all(256);
    std::iota(all.begin(), all.end(), -128.0F);
    for (const DType type : {DType::bf16, DType::f16}) {
        p.y = type;
        const auto rounded = [type](float x) {
            return type == DType::bf16 ? to_float(to_bfloat16(x)) : to_float(to_float16(x));
        };
        for (const LinearKernel& kernel : usable(machine_under_test().linear, p)) {
            const std::vector<float> y = run_static(kernel, p, all, integer_weight(p, all));
            std::int64_t wrong = 0;
            for (std::size_t i = 0; i < y.size(); ++i) wrong += y[i] != rounded(all[i / 256] * all[i % 256]);
            EXPECT_EQ(wrong, 0) << kernel.name << " " << p.describe();
        }
    }
}

TEST(LinearKernels, QuotientsAtTiesAreRoundedAsByDivision) {
    for (const auto& [activation, weight] :
         {std::pair{Activation::per_token, Format::int8}, std::pair{Activation::per_tensor, Format::int8},
          std::pair{Activation::per_token_int4, Format::int4}}) {
        LinearCase c;
        c.problem = {400, 7, 193, DType::f32, DType::f32, weight, activation, 0, false};
        c.fill = Fill::ties;
        const LinearArrays arrays(c);
        for (const LinearKernel& kernel : usable(machine_under_test().linear, c.problem)) {
            EXPECT_EQ(arrays.check(kernel), "");
        }
    }
}

TEST(LinearKernels, ResultsDoNotDependOnTheNumberOfThreads) {
    if (!tests_the_cpu()) GTEST_SKIP() << "the threads of the host compute nothing";
    const int before = num_threads();
    for (const LinearShape& shape :
         {LinearShape{300, 190, 700, 100, false}, LinearShape{9, 700, 300, 0, false},
          LinearShape{37, 90, 512, 64, false}}) {
        for (const LinearCase& c : linear_cases(shape)) {
            const LinearArrays arrays(c);
            for (const LinearKernel& kernel : usable(machine_under_test().linear, c.problem)) {
                std::string complaint;
                set_num_threads(1);
                const std::vector<float> wanted = arrays.run(kernel, complaint);
                for (const int threads : {2, 3, 5}) {
                    set_num_threads(threads);
                    const std::vector<float> got = arrays.run(kernel, complaint);
                    EXPECT_EQ(std::memcmp(got.data(), wanted.data(), got.size() * sizeof(float)), 0)
                        << kernel.name << " " << c.describe() << " threads=" << threads;
                }
                EXPECT_EQ(complaint, "");
            }
        }
    }
    set_num_threads(before);
}

// Static W8A8 by hand: x = 1, 2 with scale 0.5 and offset 1 is 3, 5; 3*2 + 5*(-3) + 4 = -5; * 0.25.
TEST(ReferenceLinear, StaticScalesByHand) {
    QuantizedTensor weight;
    weight.format = Format::int8;
    weight.rows = 1;
    weight.columns = 2;
    weight.data = Tensor(DType::i8, {1, 2});
    weight.data.mutable_as<std::int8_t>()[0] = 2;
    weight.data.mutable_as<std::int8_t>()[1] = -3;
    weight.scale = Tensor::zeros(DType::f32, {1, 1});
    const LinearProblem p = {1, 1, 2, DType::f32, DType::f32, Format::int8, Activation::per_tensor, 0, false};
    std::vector<std::byte> packed(reference().packed_bytes(p)), workspace(reference().workspace_bytes(p));
    reference().pack(p, weight, packed.data());
    const float x[2] = {1, 2};
    float y = NAN;
    const std::int32_t quant_bias = 4;
    const float deq_scale = 0.25F;
    LinearArgs args;
    args.x = x;
    args.x_stride = 2;
    args.y = &y;
    args.y_stride = 1;
    args.packed = packed.data();
    args.input_scale = 0.5F;
    args.input_offset = 1;
    args.quant_bias = &quant_bias;
    args.deq_scale = &deq_scale;
    args.workspace = workspace.data();
    reference().run(p, args);
    EXPECT_EQ(y, -1.25F);
}

// --- broken kernels -------------------------------------------------------------------------------------

/// The reference with the weights' last column set to zero before packing.
void pack_without_last_k(const LinearProblem& p, const QuantizedTensor& weight, std::byte* packed) noexcept {
    QuantizedTensor broken = weight;
    broken.data = weight.data.clone();
    const std::size_t size = size_of(broken.data.dtype());
    const std::int64_t columns = broken.data.dim(1);  // int4 has two in one
    for (std::int64_t j = 0; j < p.n; ++j) {
        auto* row = static_cast<std::byte*>(broken.data.mutable_data()) +
                    static_cast<std::size_t>(j * columns) * size;
        std::memset(row + static_cast<std::size_t>(columns - 1) * size, 0, size);
    }
    reference().pack(p, broken, packed);
}

void run_without_last_row(const LinearProblem& p, const LinearArgs& args) noexcept {
    LinearProblem fewer = p;
    fewer.m -= 1;
    reference().run(fewer, args);
}

void run_beyond_y(const LinearProblem& p, const LinearArgs& args) noexcept {
    reference().run(p, args);
    static_cast<std::byte*>(
        args.y)[static_cast<std::size_t>((p.m - 1) * args.y_stride + p.n) * size_of(p.y)] = std::byte{1};
}

void run_without_mul_scale(const LinearProblem& p, const LinearArgs& args) noexcept {
    LinearArgs broken = args;
    broken.mul_scale = nullptr;
    reference().run(p, broken);
}

/// The reference with the largest scale of the first row too large; other rows may hold a NaN.
void pack_with_a_wrong_scale(const LinearProblem& p, const QuantizedTensor& weight,
                             std::byte* packed) noexcept {
    QuantizedTensor broken = weight;
    broken.scale = weight.scale.clone();
    const std::int64_t count = broken.scale.dim(1);
    if (broken.scale.dtype() == DType::u8) {
        *std::max_element(broken.scale.mutable_as<std::uint8_t>(),
                          broken.scale.mutable_as<std::uint8_t>() + count) += 1;
    } else {
        *std::max_element(broken.scale.mutable_as<float>(), broken.scale.mutable_as<float>() + count) *=
            1.001F;
    }
    reference().pack(p, broken, packed);
}

TEST(LinearComparison, SeesBrokenKernels) {
    int scales = 0;
    for (LinearCase c : linear_cases({15, 33, 200, 100, false})) {
        c.mul_scale = true;
        const LinearArrays arrays(c);
        LinearKernel broken = reference();
        EXPECT_EQ(arrays.check(broken), "");
        broken.run = run_without_last_row;
        EXPECT_NE(arrays.check(broken), "") << c.describe();
        broken.run = run_beyond_y;
        EXPECT_NE(arrays.check(broken), "") << c.describe();
        broken.run = run_without_mul_scale;
        // Extreme sums are infinite in f16 with it and without it.
        if (c.problem.y != DType::f16) {
            EXPECT_NE(arrays.check(broken), "") << c.describe();
        }
        broken.run = reference().run;
        broken.pack = pack_without_last_k;
        if (c.problem.y != DType::f32) continue;  // one of 200 columns may hide in the rounding of bf16
        EXPECT_NE(arrays.check(broken), "") << c.describe();
        if (!arrays.weight().scale.defined() || c.problem.activation == Activation::per_tensor) continue;
        broken.pack = pack_with_a_wrong_scale;
        EXPECT_NE(arrays.check(broken), "") << c.describe();
        ++scales;
    }
    EXPECT_GT(scales, 10);
}

TEST(LinearComparison, SeesOneWrongInteger) {
    LinearCase c;
    c.problem = {4, 4, 64, DType::f32, DType::f32, Format::int8, Activation::per_token, 0, false};
    const LinearArrays arrays(c);
    std::string complaint;
    std::vector<float> y = arrays.run(reference(), complaint);
    EXPECT_EQ(arrays.compare(y), "");
    y[5] = std::nextafter(y[5], 1e9F);
    EXPECT_NE(arrays.compare(y), "");
}

}  // namespace
}  // namespace aerogel::testing
