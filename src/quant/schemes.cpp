// The schemes that are there, and the names of the file format that are not there yet.
#include "quant/schemes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "aerogel/error.h"

namespace aerogel {
namespace {

constexpr std::array<std::string_view, 3> kWeightTensors = {"weight", "weight_scale", "weight_offset"};
constexpr std::array<std::string_view, 7> kStaticTensors = {
    "weight", "weight_scale", "weight_offset", "input_scale", "input_offset", "quant_bias", "deq_scale"};

constexpr std::array<SchemeRow, 4> kSchemes = {{
    {"W8A16",
     {"W8A16_PER_CHANNEL", ""},
     Format::int8,
     Activation::none,
     false,
     false,
     kWeightTensors,
     "int8 weights, float activations"},
    {"W8A8_DYNAMIC",
     {"W8A8_PER_TOKEN", ""},
     Format::int8,
     Activation::per_token,
     false,
     false,
     kWeightTensors,
     "int8 weights, int8 activations with one scale per token found at run time"},
    {"W8A8",
     {"W8A8_STATIC", ""},
     Format::int8,
     Activation::per_tensor,
     false,
     true,
     kStaticTensors,
     "int8 weights, int8 activations with one calibrated scale per layer"},
    {"W8A8_TIMESTEP",
     {"", ""},
     Format::int8,
     Activation::per_tensor,
     true,
     true,
     kStaticTensors,
     "int8 weights, int8 activations with one calibrated scale per layer and sampling step, or per token"},
}};

// Quantization types that description files may hold and that no row above computes.
constexpr std::array<std::string_view, 39> kNotYet = {
    "W4A16",
    "W4A16_AWQ",
    "W4A16_GPTQ",
    "W8A16_GPTQ",
    "W4A8",
    "W4A8_AWQ",
    "W4A8_DYNAMIC",
    "W4A4_DYNAMIC",
    "W4A4_FLATQUANT_DYNAMIC",
    "W8A8_MIX",
    "W8A8S",
    "W8A8SC",
    "W16A16S",
    "W16A16SC",
    "W16A16",
    "W8A8_MXFP8",
    "W8A8_MXFP8_SVD",
    "W4A4_MXFP4",
    "W4A4_MXFP4_DYNAMIC",
    "W4A4_MXFP4_SVD",
    "W4A4_MXFP4_DUALSCALE",
    "W4A4_MXFP4_DUALSCALE_SVD",
    "W8A8_PER_CHANNEL",
    "W8A8_PER_TENSOR",
    "W8A8_PER_CHANNEL_PER_TOKEN",
    "W8A8_PER_CHANNEL_PER_TENSOR",
    "W8A8_PER_TENSOR_PER_TOKEN",
    "INT8",
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

}  // namespace

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
    if (wanted.empty()) return nullptr;
    const auto row = std::find_if(kSchemes.begin(), kSchemes.end(), [&](const SchemeRow& candidate) {
        return candidate.name == wanted ||
               std::count(candidate.aliases.begin(), candidate.aliases.end(), wanted) > 0;
    });
    return row == kSchemes.end() ? nullptr : &*row;
}

const SchemeRow& scheme_row(std::string_view op, std::string_view name) {
    if (const SchemeRow* row = find_scheme(name)) return *row;
    if (is_quant_type(name)) {
        throw Unsupported(
            fmt::format("[{}] scheme {} is not there yet; there are: {}", op, name, scheme_names()));
    }
    throw InvalidArgument(
        fmt::format("[{}] there is no scheme '{}'; there are: {}", op, name, scheme_names()));
}

bool is_quant_type(std::string_view name) {
    const std::string wanted = upper_case(name);
    return find_scheme(wanted) != nullptr ||
           std::find(kNotYet.begin(), kNotYet.end(), wanted) != kNotYet.end();
}

}  // namespace aerogel
