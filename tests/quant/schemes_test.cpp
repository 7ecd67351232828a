// The table of schemes and the names that are not supported.
#include "quant/schemes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "aerogel/error.h"
#include "aerogel/quantized_linear.h"
#include "core/text.h"
#include "kernels/reference/kernels.h"
#include "quant/algorithms/algorithm.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

using testing::HasSubstr;

TEST(Schemes, NamesAndAliasesAreUnique) {
    std::set<std::string_view> seen;
    for (const SchemeRow& row : schemes()) {
        EXPECT_EQ(row.name, upper_case(row.name));
        EXPECT_EQ(find_scheme(row.name), &row);
        EXPECT_TRUE(seen.insert(row.name).second) << row.name;
        for (const auto alias : row.aliases) {
            EXPECT_TRUE(seen.insert(alias).second) << alias;
            EXPECT_EQ(find_scheme(alias), &row);
        }
        for (const auto name : row.file_names) {
            EXPECT_TRUE(seen.insert(name).second) << name;
            EXPECT_EQ(find_scheme(name), nullptr);
            EXPECT_EQ(find_stored_scheme(name), &row);
            EXPECT_THROW(scheme_row("test", name), Unsupported);
        }
    }
    EXPECT_EQ(find_scheme(""), nullptr);
    EXPECT_EQ(&scheme_row("test", "w8a8_static"), &scheme_row("test", "W8A8"));
}

TEST(Schemes, EveryNameOfTheFileFormatIsKnown) {
    for (const char* name : {"W8A8",
                             "W8A8_TIMESTEP",
                             "W8A8_DYNAMIC",
                             "W4A4_DYNAMIC",
                             "W8A8_MXFP8",
                             "W4A4_MXFP4",
                             "W4A4_MXFP4_SVD",
                             "W4A4_MXFP4_DUALSCALE",
                             "W8A16",
                             "W4A16",
                             "W4A16_AWQ",
                             "W4A8_AWQ",
                             "W8A16_GPTQ",
                             "W4A16_GPTQ",
                             "W8A8_PER_CHANNEL",
                             "W8A8_PER_TENSOR",
                             "W8A8_PER_CHANNEL_PER_TOKEN",
                             "W8A8_PER_CHANNEL_PER_TENSOR",
                             "W8A8_PER_TENSOR_PER_TOKEN",
                             "INT8",
                             "MIXED_PERCISION",
                             "FP8_DYNAMIC",
                             "MXFP8_DYNAMIC",
                             "MXFP4_DYNAMIC",
                             "NO_QUANT",
                             "W4A8",
                             "W16A16",
                             "W8A8S",
                             "W8A8SC",
                             "W8A8_MIX",
                             "W4A8_DYNAMIC",
                             "W4A4_FLATQUANT_DYNAMIC",
                             "NF4",
                             "W16A16S",
                             "W16A16SC",
                             "C8",
                             "FAQuant",
                             "UNKNOWN"}) {
        EXPECT_TRUE(is_quant_type(name)) << name;
        if (find_stored_scheme(split_quant_type(name).scheme) != nullptr) continue;
        try {
            stored_scheme_row("test", name);
            ADD_FAILURE() << name;
        } catch (const Unsupported& error) {
            EXPECT_THAT(error.what(), HasSubstr("is not supported; supported are: W8A16, W4A16, W8A16_FP8,"));
        }
    }
    EXPECT_FALSE(is_quant_type("FLOAT"));
    EXPECT_THROW(scheme_row("test", "W9A9"), InvalidArgument);
}

TEST(Schemes, TypesComeApart) {
    const auto parts = [](const char* name) {
        const QuantType type = split_quant_type(name);
        const std::string rotation = type.rotation ? std::string(to_string(*type.rotation)) : "";
        return std::tuple(type.scheme, type.low_rank, rotation);
    };
    EXPECT_EQ(parts("W4A4_MXFP4_SVD"), std::tuple("W4A4_MXFP4", true, ""));
    EXPECT_EQ(parts("w8a8_svd_dynamic"), std::tuple("W8A8_DYNAMIC", true, ""));
    EXPECT_EQ(parts("W8A8_SVD"), std::tuple("W8A8", true, ""));
    EXPECT_EQ(parts("W4A4_MXFP4_DUALSCALE_SVD_ROTATED"),
              std::tuple("W4A4_MXFP4_DUALSCALE", true, "hadamard"));
    EXPECT_EQ(parts("W8A8_DYNAMIC_ROTATED"), std::tuple("W8A8_DYNAMIC", false, "hadamard"));
    EXPECT_EQ(parts("W8A8_SVD_DYNAMIC_CONVROT"), std::tuple("W8A8_DYNAMIC", true, "convrot"));
    EXPECT_EQ(parts("W8A16"), std::tuple("W8A16", false, ""));
    for (const char* name : {"W4A4_MXFP4_SVD", "W8A8_SVD_DYNAMIC", "W8A8_SVD_DYNAMIC_ROTATED",
                             "W4A4_DYNAMIC_CONVROT", "W4A16"}) {
        EXPECT_EQ(join_quant_type(split_quant_type(name)), name);
        EXPECT_EQ(&stored_scheme_row("test", name), find_scheme(split_quant_type(name).scheme));
    }
    EXPECT_THROW(stored_scheme_row("test", "W9A9_SVD"), InvalidArgument);
}

TEST(Schemes, NamesOfTheDocumentsResolve) {
    const std::pair<const char*, const char*> names[] = {{"int8", "W8A16"},
                                                         {"INT4", "W4A16"},
                                                         {"FP8", "W8A16_FP8"},
                                                         {"MXFP4", "W4A4_MXFP4"},
                                                         {"MXFP8", "W8A8_MXFP8"},
                                                         {"W4A4", "W4A4_DYNAMIC"},
                                                         {"W4A8_DYNAMIC", "W4A8"},
                                                         {"W8A8_FP8", "WFP8AFP8_DYNAMIC"},
                                                         {"W4A4_MXFP4_DYNAMIC", "W4A4_MXFP4"}};
    for (const auto& [alias, name] : names) EXPECT_EQ(scheme_row("test", alias).name, name);
}

// What the table promises a kernel must take: the format with the activation, and groups where it says so.
TEST(Schemes, TheReferenceRunsEveryRow) {
    const LinearKernel& reference = reference::kLinear;
    for (const SchemeRow& row : schemes()) {
        LinearProblem problem{.m = 1, .n = 4, .k = 64, .weight = row.weight, .activation = row.activation};
        EXPECT_EQ(reference.why_not(problem), "") << row.name;
        if (!row.groups) continue;
        problem.group_size = 32;
        EXPECT_EQ(reference.why_not(problem), "") << row.name;
    }
}

TEST(Schemes, MinmaxServesEveryScheme) {
    for (const SchemeRow& row : schemes()) EXPECT_EQ(algorithm_row("minmax", row.weight).name, "minmax");
    EXPECT_THROW(algorithm_row("maxmin", Format::int8), InvalidArgument);
}

QuantizedLinearWeights layer(const char* scheme) {
    QuantizedLinearWeights weights;
    weights.scheme = scheme;
    weights.weight = {
        Format::int8, 2, 3, 0, Tensor::zeros(DType::i8, {2, 3}), Tensor::zeros(DType::f32, {2, 1}), {}, {}};
    return weights;
}

TEST(QuantizedLinear, RefusesWhatDoesNotFit) {
    EXPECT_NO_THROW(QuantizedLinear(layer("W8A16")));
    EXPECT_THROW(QuantizedLinear(layer("W8A8")), InvalidArgument);
    EXPECT_THROW(QuantizedLinear(layer("W8A8_TIMESTEP")), InvalidArgument);
    EXPECT_THROW(QuantizedLinear(layer("W8A8_MIX")), Unsupported);
    QuantizedLinearWeights weights = layer("W8A16");
    weights.input_scale = weights.input_offset = Tensor::zeros(DType::f32, {1});
    weights.quant_bias = Tensor::zeros(DType::i32, {1, 2});
    weights.deq_scale = Tensor::zeros(DType::f32, {1, 2});
    EXPECT_THROW(QuantizedLinear{weights}, InvalidArgument);
    weights = layer("W8A8_DYNAMIC");
    weights.bias = Tensor::zeros(DType::f32, {3});
    EXPECT_THROW(QuantizedLinear{weights}, InvalidArgument);
    weights = layer("W8A8_DYNAMIC");
    weights.mul_scale = Tensor::zeros(DType::f32, {2});
    EXPECT_THROW(QuantizedLinear{weights}, InvalidArgument);
    weights = layer("W8A8_DYNAMIC");
    weights.weight.format = Format::f32;
    EXPECT_THROW(QuantizedLinear{weights}, InvalidArgument);
}

TEST(QuantizedLinear, CountsStoredBytes) {
    QuantizedLinearWeights weights = layer("W8A16");
    weights.bias = Tensor::zeros(DType::f32, {2});
    EXPECT_EQ(QuantizedLinear(weights).weight_bytes(), 6U + 8U + 8U);
    weights.stored_bytes = 17;
    EXPECT_EQ(QuantizedLinear(weights).weight_bytes(), 17U);
}

}  // namespace
}  // namespace aerogel
