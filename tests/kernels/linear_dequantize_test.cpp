// Linear kernels that unpack weights while they multiply: the weights and the quantized activations they
// compute with are those of the reference to the bit, and the packed weights stay as small as the file's.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "aerogel/number_types.h"
#include "formats/format.h"
#include "formats/mx.h"
#include "formats/nibbles.h"
#include "kernels/cpu_kernels.h"
#include "kernels/reference/kernels.h"

namespace aerogel::testing {
namespace {

using Floats = std::vector<float>;

const LinearKernel& reference() {
    return reference::kLinear;
}

bool is_nibbles(Format format) {
    return format_row(format).storage == DType::u8;
}

/// y f32 [m, n] of one kernel, which gets m from x [m, k] and x as bf16 where the problem says so.
Floats run(const LinearKernel& kernel, LinearProblem problem, const QuantizedTensor& weight,
           const Floats& x) {
    const auto memory = [](std::size_t bytes) {
        return Tensor(DType::u8, {static_cast<std::int64_t>(bytes)});  // 64-byte aligned
    };
    problem.m = 0;
    Tensor packed = memory(kernel.packed_bytes(problem));
    kernel.pack(problem, weight, static_cast<std::byte*>(packed.mutable_data()));
    problem.m = static_cast<std::int64_t>(x.size()) / problem.k;
    Tensor workspace = memory(kernel.workspace_bytes(problem));
    Floats y(static_cast<std::size_t>(problem.m * problem.n), NAN);
    std::vector<BFloat16> halves;
    for (const float value : x) halves.push_back(to_bfloat16(value));
    LinearArgs args;
    args.x = problem.x == DType::bf16 ? static_cast<const void*>(halves.data()) : x.data();
    args.x_stride = problem.k;
    args.y = y.data();
    args.y_stride = problem.n;
    args.packed = static_cast<const std::byte*>(packed.data());
    args.workspace = static_cast<std::byte*>(workspace.mutable_data());
    kernel.run(problem, args);
    return y;
}

/// The kernels of this machine but the reference that take a problem.
std::vector<const LinearKernel*> kernels_for(const LinearProblem& problem) {
    std::vector<const LinearKernel*> kernels;
    for (const LinearKernel& kernel : usable(machine_under_test().linear, problem))
        if (kernel.name != reference().name) kernels.push_back(&kernel);
    return kernels;
}

/// Row j holds code j % codes in column j % k and zeros elsewhere, with scale j / codes of a list.
QuantizedTensor every_code(Format format, std::int64_t k) {
    const std::int64_t codes = is_nibbles(format) ? 16 : 256;
    const bool powers = is_mx(format);
    const std::vector<int> bytes = {0, 1, 2, 100, 127, 130, 253, 254};
    const Floats scales = {1, 0.0037F, 0x1p-126F, 1e-41F, 3e38F, -2, 1e-20F, 0};
    QuantizedTensor w;
    w.format = format;
    w.columns = k;
    w.rows = codes * static_cast<std::int64_t>(scales.size());
    w.group_size = powers ? kMxBlock : 0;
    w.data = Tensor::zeros(format_row(format).storage,
                           is_nibbles(format) ? nibble_shape(w.rows, k) : Shape{w.rows, k});
    w.scale = Tensor::zeros(powers ? DType::u8 : DType::f32, {w.rows, powers ? mx_blocks(k) : 1});
    if (format == Format::mxfp4_dual) w.dual_scale = Tensor(DType::f32, {w.rows, mx_dual_blocks(k)});
    for (std::int64_t j = 0; j < w.rows; ++j) {
        auto* row = static_cast<std::uint8_t*>(w.data.mutable_data()) + j * w.data.dim(1);
        const auto code = static_cast<std::uint8_t>(j % codes);
        const auto turn = static_cast<std::size_t>(j / codes);
        if (is_nibbles(format)) {
            put_nibble(row, j % k, code);
        } else {
            row[j % k] = code;
        }
        for (std::int64_t g = 0; g < w.scale.dim(1); ++g) {
            const std::int64_t at = j * w.scale.dim(1) + g;
            if (powers) {
                w.scale.mutable_as<std::uint8_t>()[at] = static_cast<std::uint8_t>(bytes[turn]);
            } else {
                w.scale.mutable_as<float>()[at] = scales[turn];
            }
        }
        for (std::int64_t b = 0; format == Format::mxfp4_dual && b < w.dual_scale.dim(1); ++b) {
            w.dual_scale.mutable_as<float>()[j * w.dual_scale.dim(1) + b] = j % 3 == 0 ? 1e-30F : 0.7F;
        }
    }
    return w;
}

void expect_weights_to_the_bit(const QuantizedTensor& w, Activation activation) {
    const LinearProblem problem{.n = w.rows,
                                .k = w.columns,
                                .weight = w.format,
                                .activation = activation,
                                .group_size = w.group_size,
                                .weight_offset = w.offset.defined(),
                                .dual_block = w.dual_block};
    const Tensor wanted = dequantize(w);
    for (const LinearKernel* kernel : kernels_for(problem)) {
        for (const std::int64_t m : {1, 2, 3, 4, 5, 17}) {
            const Floats y = run(*kernel, problem, w, Floats(static_cast<std::size_t>(m * w.columns), 1.0F));
            for (std::int64_t j = 0; j < w.rows; ++j) {
                const float a = wanted.as<float>()[j * w.columns + j % w.columns];
                for (std::int64_t i = 0; i < m; ++i) {
                    const float b = y[static_cast<std::size_t>(i * w.rows + j)];
                    if (std::isnan(a) && std::isnan(b)) continue;
                    // a - 0 makes -0 + 0 of a sum
                    ASSERT_EQ(std::bit_cast<std::uint32_t>(a + 0.0F), std::bit_cast<std::uint32_t>(b))
                        << kernel->name << " " << problem.describe() << " m=" << m << " row " << j;
                }
            }
        }
    }
}

TEST(DequantizeKernels, WeightsAreTheFormatsToTheBit) {
    for (const Format format : {Format::int8, Format::int4, Format::fp8_e4m3, Format::fp8_e5m2, Format::mxfp8,
                                Format::mxfp4, Format::mxfp4_dual}) {
        for (const std::int64_t k : {1, 71, 520}) {
            expect_weights_to_the_bit(every_code(format, k), Activation::none);
        }
    }
}

TEST(DequantizeKernels, DualScalesOfAnyBlock) {
    for (const std::int64_t block : {32, 64, 96, 256, 1024}) {
        QuantizedTensor w = every_code(Format::mxfp4_dual, 520);
        w.dual_block = block;
        w.dual_scale = Tensor(DType::f32, {w.rows, mx_dual_blocks(w.columns, block)});
        for (std::int64_t i = 0; i < w.dual_scale.count(); ++i) {
            w.dual_scale.mutable_as<float>()[i] = 0.5F + static_cast<float>(i % 37);
        }
        expect_weights_to_the_bit(w, Activation::none);
    }
}

TEST(DequantizeKernels, OffsetsAreSubtractedFirst) {
    for (const Format format : {Format::int8, Format::int4}) {
        QuantizedTensor w = every_code(format, 1);
        w.offset = Tensor(DType::f32, {w.rows, 1});
        for (std::int64_t j = 0; j < w.rows; ++j) {
            w.offset.mutable_as<float>()[j] = j % 5 == 0 ? 0.3F : static_cast<float>(j % 211 - 100);
        }
        expect_weights_to_the_bit(w, Activation::none);
    }
}

/// The matrix whose products are x itself.
QuantizedTensor identity(Format format, std::int64_t k) {
    QuantizedTensor w;
    w.format = format;
    w.rows = w.columns = k;
    w.group_size = is_mx(format) ? kMxBlock : 0;
    w.data = Tensor::zeros(format_row(format).storage, is_nibbles(format) ? nibble_shape(k, k) : Shape{k, k});
    for (std::int64_t j = 0; j < k; ++j) {
        auto* row = static_cast<std::uint8_t*>(w.data.mutable_data()) + j * w.data.dim(1);
        if (is_nibbles(format)) {
            put_nibble(row, j, to_float4_e2m1(1.0F).bits);
        } else {
            row[j] = to_float8_e4m3(1.0F).bits;
        }
    }
    if (is_mx(format)) {
        w.scale = Tensor(DType::u8, {k, mx_blocks(k)});
        std::fill_n(w.scale.mutable_as<std::uint8_t>(), w.scale.count(), std::uint8_t{127});
    } else {
        w.scale = Tensor(DType::f32, {k, 1});
        std::fill_n(w.scale.mutable_as<float>(), k, 1.0F);
    }
    if (format == Format::mxfp4_dual) {
        w.dual_scale = Tensor(DType::f32, {k, mx_dual_blocks(k)});
        std::fill_n(w.dual_scale.mutable_as<float>(), w.dual_scale.count(), 1.0F);
    }
    return w;
}

/// Rows of every kind: of all sizes, ties, denormals, blocks of zeros, NaN and infinity.
Floats hard_rows(std::int64_t m, std::int64_t k) {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> power(-140, 120), small(-40, 40);
    Floats x(static_cast<std::size_t>(m * k));
    for (std::size_t at = 0; at < x.size(); ++at) {
        const std::size_t row = at / static_cast<std::size_t>(k), p = at % static_cast<std::size_t>(k);
        float value = normal(random);
        if (row % 8 == 1) value = std::ldexp(value, power(random));
        if (row % 8 == 2) value = static_cast<float>(small(random)) * 0.25F;
        if (row % 8 == 3) value = p % 64 < 32 ? 0 : value * 1e-39F;
        if (row % 8 == 4) value *= 1e37F;
        if (row % 8 == 5) value = p % 32 == 0 ? 448 : static_cast<float>(small(random)) + 0.5F;
        if (row % 8 == 6) value = static_cast<float>(p % 96) * 0x1p-149F;
        if (row == 7 && p + 1 == static_cast<std::size_t>(k)) value = NAN;
        if (row == 15 && p == 0) value = -std::numeric_limits<float>::infinity();
        x[at] = value;
    }
    return x;
}

void expect_activations_to_the_bit(const LinearProblem& problem) {
    const QuantizedTensor w = identity(problem.weight, problem.k);
    for (const std::int64_t m : {1, 3, 8, 33}) {
        const Floats x = hard_rows(m, problem.k);
        const Floats wanted = run(reference(), problem, w, x);
        for (const LinearKernel* kernel : kernels_for(problem)) {
            const Floats got = run(*kernel, problem, w, x);
            for (std::size_t at = 0; at < got.size(); ++at) {
                if (std::isnan(wanted[at]) && std::isnan(got[at])) continue;
                ASSERT_EQ(std::bit_cast<std::uint32_t>(wanted[at]), std::bit_cast<std::uint32_t>(got[at]))
                    << kernel->name << " " << problem.describe() << " m=" << m << " element " << at;
            }
        }
    }
}

struct Scheme {
    Format weight;
    Activation activation;
};
constexpr Scheme kSchemes[] = {{Format::fp8_e4m3, Activation::per_token_fp8},
                               {Format::mxfp8, Activation::mxfp8},
                               {Format::mxfp4, Activation::mxfp8},
                               {Format::mxfp4, Activation::mxfp4},
                               {Format::mxfp4_dual, Activation::mxfp4_dual}};

TEST(DequantizeKernels, QuantizedActivationsAreTheReferencesToTheBit) {
    for (const Scheme& scheme : kSchemes) {
        for (const DType x : {DType::f32, DType::bf16}) {
            for (const std::int64_t k : {1, 37, 256, 301, 600}) {
                expect_activations_to_the_bit({.n = k,
                                               .k = k,
                                               .x = x,
                                               .weight = scheme.weight,
                                               .activation = scheme.activation,
                                               .group_size = is_mx(scheme.weight) ? kMxBlock : 0});
            }
        }
    }
}

TEST(DequantizeKernels, TakeEverySchemeOfFloatProducts) {
    for (const LinearKernel& kernel : every(cpu::kMachine.linear)) {
        if (kernel.name.find("dequantize") == kernel.name.npos) continue;
        for (const Scheme& scheme : kSchemes) {
            LinearProblem problem{.n = 4, .k = 64, .weight = scheme.weight, .activation = scheme.activation};
            EXPECT_EQ(kernel.why_not(problem), "");
            problem.activation = Activation::none;
            EXPECT_EQ(kernel.why_not(problem), "");
        }
        LinearProblem problem{
            .n = 4, .k = 64, .weight = Format::int4, .group_size = 32, .weight_offset = true};
        EXPECT_EQ(kernel.why_not(problem), "");
        problem.activation = Activation::per_token;
        EXPECT_EQ(kernel.why_not(problem), "takes no integer activations");
        problem.weight = Format::bf16;
        EXPECT_EQ(kernel.why_not(problem), "takes quantized weights only");
    }
}

TEST(LinearKernels, PackedFormServesAllFloatActivations) {
    const QuantizedTensor w = every_code(Format::mxfp4_dual, 71);
    LinearProblem problem{.n = w.rows, .k = w.columns, .weight = w.format, .group_size = kMxBlock};
    for (const LinearKernel& kernel : usable(machine_under_test().linear)) {
        std::vector<std::vector<std::byte>> forms;
        for (const Activation activation : {Activation::none, Activation::mxfp8, Activation::mxfp4_dual}) {
            problem.activation = activation;
            EXPECT_TRUE(same_packing(activation, Activation::none));
            if (!kernel.why_not(problem).empty()) continue;
            Tensor packed(DType::u8, {static_cast<std::int64_t>(kernel.packed_bytes(problem))});
            auto* bytes = static_cast<std::byte*>(packed.mutable_data());
            kernel.pack(problem, w, bytes);
            forms.emplace_back(bytes, bytes + packed.count());
            EXPECT_EQ(forms.back(), forms.front()) << kernel.name;
        }
        EXPECT_TRUE(kernel.name != reference().name || forms.size() == 3U);
    }
    EXPECT_FALSE(same_packing(Activation::per_token, Activation::none));
}

TEST(GroupedKernels, TakeGroupsThatDivideABlock) {
    LinearProblem problem{.n = 4, .k = 1024, .weight = Format::int4, .activation = Activation::per_token};
    for (const std::int64_t group : {32, 64, 128, 256}) {
        problem.group_size = group;
        for (const LinearKernel& kernel : every(cpu::kMachine.linear)) {
            const bool grouped = kernel.name.find("groups") != kernel.name.npos;
            EXPECT_EQ(kernel.why_not(problem).empty(), grouped || kernel.name == reference().name)
                << kernel.name;
        }
    }
    problem.group_size = 512;
    const LinearKernel& last = *cpu::kMachine.linear[cpu::kMachine.linear.size() - 2].kernel;
    EXPECT_NE(last.why_not(problem), "");
}

TEST(DequantizeKernels, PackedWeightsAreAsSmallAsTheFiles) {
    constexpr std::int64_t kSize = 3072;
    for (const Format format : {Format::int8, Format::int4, Format::fp8_e4m3, Format::fp8_e5m2, Format::mxfp8,
                                Format::mxfp4, Format::mxfp4_dual}) {
        const bool powers = is_mx(format);
        const std::int64_t group = powers ? kMxBlock : 128, groups = kSize / group;
        const LinearProblem problem{.n = kSize, .k = kSize, .weight = format, .group_size = group};
        const std::int64_t data = is_nibbles(format) ? kSize * kSize / 2 : kSize * kSize;
        const std::int64_t scales = kSize * groups * (powers ? 1 : 4);
        const std::int64_t dual = format == Format::mxfp4_dual ? kSize * mx_dual_blocks(kSize) * 4 : 0;
        for (const LinearKernel* kernel : kernels_for(problem)) {
            EXPECT_LE(kernel->packed_bytes(problem), static_cast<std::size_t>(data + scales + dual + 64))
                << kernel->name << " " << problem.describe();
        }
    }
}

}  // namespace
}  // namespace aerogel::testing
