// The table of schemes and the names that are not there yet.
#include "quant/schemes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "aerogel/error.h"
#include "aerogel/quantized_linear.h"
#include "quant/algorithms/algorithm.h"

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
            EXPECT_TRUE(alias.empty() || seen.insert(alias).second) << alias;
        }
        EXPECT_FALSE(row.tensors.empty());
        EXPECT_EQ(row.tensors[0], "weight");
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
        if (find_scheme(name) != nullptr) continue;
        try {
            scheme_row("test", name);
            ADD_FAILURE() << name;
        } catch (const Unsupported& error) {
            EXPECT_THAT(error.what(), HasSubstr("is not there yet; there are: W8A16, W8A8_DYNAMIC, W8A8,"));
        }
    }
    EXPECT_FALSE(is_quant_type("FLOAT"));
    EXPECT_THROW(scheme_row("test", "W9A9"), InvalidArgument);
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
    EXPECT_THROW(QuantizedLinear(layer("W4A16")), Unsupported);
    QuantizedLinearWeights weights = layer("W8A16");
    weights.static_scales.emplace_back();
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
