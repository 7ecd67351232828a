// The schemes that are there, and the names of the file format that are not there yet.
#include "quant/schemes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <vector>

#include "aerogel/error.h"

namespace aerogel {
namespace {

using Name = std::string_view;

constexpr std::array<Name, 3> kWeightTensors = {"weight", "weight_scale", "weight_offset"};
constexpr std::array<Name, 2> kMxTensors = {"weight", "weight_scale"};
constexpr std::array<Name, 3> kDualTensors = {"weight", "weight_scale", "weight_dual_scale"};
constexpr std::array<Name, 7> kStaticTensors = {
    "weight", "weight_scale", "weight_offset", "input_scale", "input_offset", "quant_bias", "deq_scale"};
// scale_bias: a correction that W4A8 files carry for one accelerator's arithmetic; nothing here needs it.
constexpr std::array<Name, 8> kLayerTensors = {"weight_scale", "weight_offset", "weight_dual_scale",
                                               "input_scale",  "input_offset",  "quant_bias",
                                               "deq_scale",    "scale_bias"};

constexpr std::array<Name, 2> kInt8 = {"INT8", "W8A16_PER_CHANNEL"};
constexpr std::array<Name, 1> kInt8Gptq = {"W8A16_GPTQ"};
constexpr std::array<Name, 1> kInt4 = {"INT4"};
constexpr std::array<Name, 2> kInt4Algorithms = {"W4A16_GPTQ", "W4A16_AWQ"};
constexpr std::array<Name, 3> kFp8 = {"FP8", "FP8_E4M3", "WFP8A16"};
constexpr std::array<Name, 1> kFp8E5M2 = {"FP8_E5M2"};
constexpr std::array<Name, 1> kMxfp8Weights = {"MXFP8_WEIGHT_ONLY"};
constexpr std::array<Name, 1> kMxfp4Weights = {"MXFP4_WEIGHT_ONLY"};
constexpr std::array<Name, 1> kPerToken = {"W8A8_PER_TOKEN"};
constexpr std::array<Name, 1> kW4A8 = {"W4A8_DYNAMIC"};
constexpr std::array<Name, 1> kW4A8Awq = {"W4A8_AWQ"};
constexpr std::array<Name, 1> kW4A4 = {"W4A4"};
constexpr std::array<Name, 1> kFp8PerToken = {"W8A8_FP8"};
constexpr std::array<Name, 1> kMxfp8 = {"MXFP8"};
constexpr std::array<Name, 1> kW4A8Mxfp = {"W4A8_MXFP4"};
constexpr std::array<Name, 2> kMxfp4 = {"MXFP4", "W4A4_MXFP4_DYNAMIC"};
constexpr std::array<Name, 1> kMxfp4Dual = {"MXFP4_DUALSCALE"};
constexpr std::array<Name, 1> kStatic = {"W8A8_STATIC"};

constexpr std::array<SchemeRow, 16> kSchemes = {{
    {"W8A16", kInt8, kInt8Gptq, Format::int8, Activation::none, false, false, true, false, kWeightTensors,
     "int8 weights, float activations"},
    {"W4A16", kInt4, kInt4Algorithms, Format::int4, Activation::none, false, false, true, false,
     kWeightTensors, "int4 weights, float activations"},
    {"W8A16_FP8",
     kFp8,
     {},
     Format::fp8_e4m3,
     Activation::none,
     false,
     false,
     true,
     true,
     kMxTensors,
     "fp8 (E4M3) weights, float activations"},
    {"W8A16_FP8_E5M2",
     kFp8E5M2,
     {},
     Format::fp8_e5m2,
     Activation::none,
     false,
     false,
     true,
     true,
     kMxTensors,
     "fp8 (E5M2) weights, float activations"},
    {"W8A16_MXFP8",
     kMxfp8Weights,
     {},
     Format::mxfp8,
     Activation::none,
     false,
     false,
     false,
     true,
     kMxTensors,
     "mxfp8 weights, float activations"},
    {"W4A16_MXFP4",
     kMxfp4Weights,
     {},
     Format::mxfp4,
     Activation::none,
     false,
     false,
     false,
     true,
     kMxTensors,
     "mxfp4 weights, float activations"},
    {"W8A8_DYNAMIC",
     kPerToken,
     {},
     Format::int8,
     Activation::per_token,
     false,
     false,
     true,
     false,
     kWeightTensors,
     "int8 weights, int8 activations with one scale per token found at run time"},
    {"W4A8", kW4A8, kW4A8Awq, Format::int4, Activation::per_token, false, false, true, true, kWeightTensors,
     "int4 weights, int8 activations with one scale per token"},
    {"W4A4_DYNAMIC",
     kW4A4,
     {},
     Format::int4,
     Activation::per_token_int4,
     false,
     false,
     true,
     true,
     kWeightTensors,
     "int4 weights, int4 activations with one scale per token"},
    {"WFP8AFP8_DYNAMIC",
     kFp8PerToken,
     {},
     Format::fp8_e4m3,
     Activation::per_token_fp8,
     false,
     false,
     true,
     true,
     kWeightTensors,
     "fp8 (E4M3) weights, fp8 activations with one scale per token"},
    {"W8A8_MXFP8",
     kMxfp8,
     {},
     Format::mxfp8,
     Activation::mxfp8,
     false,
     false,
     false,
     true,
     kMxTensors,
     "mxfp8 weights and activations: powers of two as scales of 32 columns"},
    {"W4A8_MXFP",
     kW4A8Mxfp,
     {},
     Format::mxfp4,
     Activation::mxfp8,
     false,
     false,
     false,
     true,
     kMxTensors,
     "mxfp4 weights, mxfp8 activations"},
    {"W4A4_MXFP4",
     kMxfp4,
     {},
     Format::mxfp4,
     Activation::mxfp4,
     false,
     false,
     false,
     true,
     kMxTensors,
     "mxfp4 weights and activations"},
    {"W4A4_MXFP4_DUALSCALE",
     kMxfp4Dual,
     {},
     Format::mxfp4_dual,
     Activation::mxfp4_dual,
     false,
     false,
     false,
     true,
     kDualTensors,
     "mxfp4 weights and activations with a second scale per 512 columns"},
    {"W8A8",
     kStatic,
     {},
     Format::int8,
     Activation::per_tensor,
     false,
     true,
     false,
     false,
     kStaticTensors,
     "int8 weights, int8 activations with one calibrated scale per layer"},
    {"W8A8_TIMESTEP",
     {},
     {},
     Format::int8,
     Activation::per_tensor,
     true,
     true,
     false,
     false,
     kStaticTensors,
     "int8 weights, int8 activations with one calibrated scale per layer and sampling step, or per token"},
}};

// Quantization types that description files may hold and that no row above computes.
constexpr std::array<std::string_view, 26> kNotYet = {
    "W4A4_FLATQUANT_DYNAMIC",
    "W8A8_MIX",
    "W8A8S",
    "W8A8SC",
    "W16A16S",
    "W16A16SC",
    "W16A16",
    "W8A8_MXFP8_SVD",
    "W4A4_MXFP4_SVD",
    "W4A4_MXFP4_DUALSCALE_SVD",
    "W8A8_PER_CHANNEL",
    "W8A8_PER_TENSOR",
    "W8A8_PER_CHANNEL_PER_TOKEN",
    "W8A8_PER_CHANNEL_PER_TENSOR",
    "W8A8_PER_TENSOR_PER_TOKEN",
    "NF4",
    "C8",
    "MIXED_PERCISION",
    "NO_QUANT",
    "FP8_DYNAMIC",
    "MXFP8_DYNAMIC",
    "MXFP4_DYNAMIC",
    "Q_FP8_DYNAMIC_KV_FP8",
    "FAQUANT",
    "FAKQUANT",
    "UNKNOWN",
};

bool contains(std::span<const std::string_view> names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

[[noreturn]] void refuse_name(std::string_view op, std::string_view name) {
    if (is_quant_type(name)) {
        throw Unsupported(
            fmt::format("[{}] scheme {} is not there yet; there are: {}", op, name, scheme_names()));
    }
    throw InvalidArgument(
        fmt::format("[{}] there is no scheme '{}'; there are: {}", op, name, scheme_names()));
}

}  // namespace

std::span<const std::string_view> layer_tensors() {
    return kLayerTensors;
}

std::span<const SchemeRow> schemes() {
    return kSchemes;
}

std::string scheme_names() {
    std::vector<std::string_view> names;
    for (const SchemeRow& row : kSchemes) names.push_back(row.name);
    return fmt::format("{}", fmt::join(names, ", "));
}

std::string upper_case(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    }
    return result;
}

const SchemeRow* find_scheme(std::string_view name) {
    const std::string wanted = upper_case(name);
    const auto row = std::find_if(kSchemes.begin(), kSchemes.end(), [&](const SchemeRow& candidate) {
        return candidate.name == wanted || contains(candidate.aliases, wanted);
    });
    return row == kSchemes.end() ? nullptr : &*row;
}

const SchemeRow* find_stored_scheme(std::string_view name) {
    if (const SchemeRow* row = find_scheme(name)) return row;
    const std::string wanted = upper_case(name);
    const auto row = std::find_if(kSchemes.begin(), kSchemes.end(), [&](const SchemeRow& candidate) {
        return contains(candidate.file_names, wanted);
    });
    return row == kSchemes.end() ? nullptr : &*row;
}

const SchemeRow& scheme_row(std::string_view op, std::string_view name) {
    if (const SchemeRow* row = find_scheme(name)) return *row;
    if (const SchemeRow* row = find_stored_scheme(name)) {
        throw Unsupported(
            fmt::format("[{}] {} names an algorithm too; files of it are read as {}, which is the "
                        "scheme to give",
                        op, name, row->name));
    }
    refuse_name(op, name);
}

const SchemeRow& stored_scheme_row(std::string_view op, std::string_view name) {
    if (const SchemeRow* row = find_stored_scheme(name)) return *row;
    refuse_name(op, name);
}

bool is_quant_type(std::string_view name) {
    const std::string wanted = upper_case(name);
    return find_stored_scheme(wanted) != nullptr || contains(kNotYet, wanted);
}

}  // namespace aerogel
