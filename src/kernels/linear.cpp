// What all linear kernels refuse, and the names of their problems.
#include "kernels/linear.h"

#include <algorithm>
#include <array>
#include <span>

namespace aerogel {
namespace {

// Weight formats whose products with these activations are defined.
std::span<const Format> partners(Activation activation) {
    static constexpr std::array kInt8 = {Format::int8, Format::int4};
    static constexpr std::array kFp8 = {Format::fp8_e4m3};
    static constexpr std::array kMxfp8 = {Format::mxfp8, Format::mxfp4, Format::mxfp4_dual};
    static constexpr std::array kMxfp4 = {Format::mxfp4};
    static constexpr std::array kDual = {Format::mxfp4_dual};
    switch (activation) {
        case Activation::none:
            return {};
        case Activation::per_token:
        case Activation::per_tensor:
            return kInt8;
        case Activation::per_token_int4:
            return std::span(kInt8).last(1);
        case Activation::per_token_fp8:
            return kFp8;
        case Activation::mxfp8:
            return kMxfp8;
        case Activation::mxfp4:
            return kMxfp4;
        case Activation::mxfp4_dual:
            return kDual;
    }
    return {};
}

std::string format_limits(const LinearProblem& problem) {
    const auto formats = partners(problem.activation);
    if (std::find(formats.begin(), formats.end(), problem.weight) != formats.end()) return "";
    std::string names;
    for (const Format format : formats)
        names += (names.empty() ? "" : " or ") + std::string(to_string(format));
    return std::string(to_string(problem.activation)) + " activations need " + names + " weights";
}

}  // namespace

std::string_view to_string(Activation activation) {
    constexpr std::array<std::string_view, 8> kNames = {
        "none", "per_token", "per_tensor", "per_token_int4", "per_token_fp8", "mxfp8", "mxfp4", "mxfp4_dual"};
    return kNames.at(static_cast<std::size_t>(activation));
}

bool is_integer(Activation activation) {
    return activation == Activation::per_token || activation == Activation::per_tensor ||
           activation == Activation::per_token_int4;
}

bool same_packing(Activation a, Activation b) {
    return is_integer(a) == is_integer(b);
}

std::string LinearProblem::describe() const {
    std::string text = m == 0 ? "" : "m=" + std::to_string(m) + " ";
    text += "n=" + std::to_string(n) + " k=" + std::to_string(k) + " x=" + std::string(to_string(x)) +
            " y=" + std::string(to_string(y)) + " w=" + std::string(to_string(weight)) +
            " act=" + std::string(to_string(activation));
    if (group_size != 0) text += " group=" + std::to_string(group_size);
    if (weight_offset) text += " offset";
    if (weight == Format::mxfp4_dual && dual_block != 512) text += " dual=" + std::to_string(dual_block);
    return text;
}

std::string linear_limits(const LinearProblem& problem, bool f16) {
    const bool real = problem.y == DType::f32 || problem.y == DType::bf16 || problem.y == DType::f16;
    const bool half = f16 && problem.x == DType::f16;
    if (problem.x != DType::f32 && problem.x != DType::bf16 && !half) return "takes x of f32 or bf16 only";
    if (!real) return "takes y of f32, bf16 or f16 only";
    if (problem.activation == Activation::none) return "";
    if (const std::string wrong = format_limits(problem); !wrong.empty()) return wrong;
    if (problem.weight_offset) return "quantized activations need weights without an offset";
    if (!is_integer(problem.activation)) return "";
    if (problem.activation == Activation::per_tensor && problem.group_size != 0) {
        return "per_tensor activations need one weight scale per row";
    }
    constexpr std::int64_t kLargest = 131071;  // k * 128 * 128 < 2^31
    if (problem.k > kLargest) return "int32 sums hold k up to 131071";
    return "";
}

}  // namespace aerogel
