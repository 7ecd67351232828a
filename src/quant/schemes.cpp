// The supported schemes, and the names of the file format that are not supported.
#include "quant/schemes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <vector>

#include "aerogel/error.h"
#include "core/text.h"
#include "quant/attention.h"

namespace aerogel {
namespace {

using Name = std::string_view;

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
// No exporter writes these; "per token" is what a name says of the activations.
constexpr std::array<Name, 3> kStaticNames = {"W8A8_PER_CHANNEL", "W8A8_PER_TENSOR",
                                              "W8A8_PER_CHANNEL_PER_TENSOR"};
constexpr std::array<Name, 2> kPerTokenNames = {"W8A8_PER_CHANNEL_PER_TOKEN", "W8A8_PER_TENSOR_PER_TOKEN"};

// With one scale for a row of a thousand columns, most of the 16 codes stay unused.
constexpr std::int64_t kInt4Group = 64;

constexpr std::array kSchemes = std::to_array<SchemeRow>({
    {.name = "W8A16",
     .aliases = kInt8,
     .file_names = kInt8Gptq,
     .weight = Format::int8,
     .groups = true,
     .summary = "int8 weights, float activations"},
    {.name = "W4A16",
     .aliases = kInt4,
     .file_names = kInt4Algorithms,
     .weight = Format::int4,
     .groups = true,
     .group_size = kInt4Group,
     .summary = "int4 weights, float activations"},
    {.name = "W8A16_FP8",
     .aliases = kFp8,
     .weight = Format::fp8_e4m3,
     .groups = true,
     .float32 = true,
     .summary = "fp8 (E4M3) weights, float activations"},
    {.name = "W8A16_FP8_E5M2",
     .aliases = kFp8E5M2,
     .weight = Format::fp8_e5m2,
     .groups = true,
     .float32 = true,
     .summary = "fp8 (E5M2) weights, float activations"},
    {.name = "W8A16_MXFP8",
     .aliases = kMxfp8Weights,
     .weight = Format::mxfp8,
     .float32 = true,
     .summary = "mxfp8 weights, float activations"},
    {.name = "W4A16_MXFP4",
     .aliases = kMxfp4Weights,
     .weight = Format::mxfp4,
     .float32 = true,
     .summary = "mxfp4 weights, float activations"},
    {.name = "W8A8_DYNAMIC",
     .aliases = kPerToken,
     .file_names = kPerTokenNames,
     .weight = Format::int8,
     .activation = Activation::per_token,
     .groups = true,
     .summary = "int8 weights, int8 activations with one scale per token found at run time"},
    {.name = "W4A8",
     .aliases = kW4A8,
     .file_names = kW4A8Awq,
     .weight = Format::int4,
     .activation = Activation::per_token,
     .groups = true,
     .group_size = kInt4Group,
     .float32 = true,
     .summary = "int4 weights, int8 activations with one scale per token"},
    {.name = "W4A4_DYNAMIC",
     .aliases = kW4A4,
     .weight = Format::int4,
     .activation = Activation::per_token_int4,
     .groups = true,
     .group_size = kInt4Group,
     .float32 = true,
     .summary = "int4 weights, int4 activations with one scale per token"},
    {.name = "WFP8AFP8_DYNAMIC",
     .aliases = kFp8PerToken,
     .weight = Format::fp8_e4m3,
     .activation = Activation::per_token_fp8,
     .groups = true,
     .float32 = true,
     .summary = "fp8 (E4M3) weights, fp8 activations with one scale per token"},
    {.name = "W8A8_MXFP8",
     .aliases = kMxfp8,
     .weight = Format::mxfp8,
     .activation = Activation::mxfp8,
     .float32 = true,
     .summary = "mxfp8 weights and activations: powers of two as scales of 32 columns"},
    {.name = "W4A8_MXFP",
     .aliases = kW4A8Mxfp,
     .weight = Format::mxfp4,
     .activation = Activation::mxfp8,
     .float32 = true,
     .summary = "mxfp4 weights, mxfp8 activations"},
    {.name = "W4A4_MXFP4",
     .aliases = kMxfp4,
     .weight = Format::mxfp4,
     .activation = Activation::mxfp4,
     .float32 = true,
     .summary = "mxfp4 weights and activations"},
    {.name = "W4A4_MXFP4_DUALSCALE",
     .aliases = kMxfp4Dual,
     .weight = Format::mxfp4_dual,
     .activation = Activation::mxfp4_dual,
     .float32 = true,
     .summary = "mxfp4 weights and activations with a second scale per 512 columns"},
    {.name = "W8A8",
     .aliases = kStatic,
     .file_names = kStaticNames,
     .weight = Format::int8,
     .activation = Activation::per_tensor,
     .needs_calibration = true,
     .summary = "int8 weights, int8 activations with one calibrated scale per layer"},
    {.name = "W8A8_TIMESTEP",
     .weight = Format::int8,
     .activation = Activation::per_tensor,
     .per_step = true,
     .needs_calibration = true,
     .summary = "int8 weights, int8 activations with one calibrated scale per layer and sampling step, or "
                "per token"},
    {.name = "W4A4_STATIC",
     .weight = Format::int4,
     .activation = Activation::per_tensor,
     .static_bits = 4,
     .needs_calibration = true,
     .summary = "int4 weights, int4 activations with one calibrated scale per layer"},
});

// Quantization types that description files may hold and that nothing here computes.
constexpr std::array<std::string_view, 13> kNotYet = {
    "W4A4_FLATQUANT_DYNAMIC",
    "W8A8_MIX",
    "W8A8S",
    "W8A8SC",
    "W16A16S",
    "W16A16SC",
    "W16A16",
    "NF4",
    "C8",
    "MIXED_PERCISION",
    "NO_QUANT",
    "Q_FP8_DYNAMIC_KV_FP8",
    "UNKNOWN",
};

bool contains(std::span<const std::string_view> names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

[[noreturn]] void refuse_name(std::string_view op, std::string_view name) {
    if (is_quant_type(name)) {
        throw Unsupported(
            fmt::format("[{}] scheme {} is not supported; supported are: {}", op, name, scheme_names()));
    }
    throw InvalidArgument(
        fmt::format("[{}] there is no scheme '{}'; there are: {}", op, name, scheme_names()));
}

}  // namespace

std::span<const SchemeRow> schemes() {
    return kSchemes;
}

std::string scheme_names() {
    std::vector<std::string_view> names;
    for (const SchemeRow& row : kSchemes) names.push_back(row.name);
    return fmt::format("{}", fmt::join(names, ", "));
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
    const std::string scheme = split_quant_type(name).scheme;
    if (const SchemeRow* row = find_stored_scheme(scheme)) return *row;
    refuse_name(op, name);
}

bool is_quant_type(std::string_view name) {
    const std::string wanted = upper_case(name);
    return find_stored_scheme(split_quant_type(name).scheme) != nullptr || find_attention_type(name) ||
           contains(kNotYet, wanted);
}

// --- endings of type names

namespace {

constexpr std::string_view kRotated = "_ROTATED", kConvrot = "_CONVROT", kLowRank = "_SVD",
                           kDynamic = "_DYNAMIC";

// Takes `ending` off `text` if it is there.
bool cut(std::string& text, std::string_view ending) {
    if (!text.ends_with(ending)) return false;
    text.resize(text.size() - ending.size());
    return true;
}

}  // namespace

QuantType split_quant_type(std::string_view name) {
    QuantType type;
    type.scheme = upper_case(name);
    if (cut(type.scheme, kRotated))
        type.rotation = RotationKind::hadamard;
    else if (cut(type.scheme, kConvrot))
        type.rotation = RotationKind::convrot;
    const bool dynamic = cut(type.scheme, kDynamic);
    type.low_rank = cut(type.scheme, kLowRank);
    if (dynamic) type.scheme += kDynamic;
    return type;
}

std::string join_quant_type(const QuantType& type) {
    std::string name = type.scheme;
    if (type.low_rank) {
        const bool dynamic = cut(name, kDynamic);
        name += kLowRank;
        if (dynamic) name += kDynamic;
    }
    if (type.rotation) name += *type.rotation == RotationKind::hadamard ? kRotated : kConvrot;
    return name;
}

}  // namespace aerogel
