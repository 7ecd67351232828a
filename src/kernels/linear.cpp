// The ordered list of linear kernels, and what they all refuse.
#include "kernels/linear.h"

#include <array>

#include "kernels/cpu/amx/linear.h"
#include "kernels/cpu/avx2/linear.h"
#include "kernels/cpu/avx512/linear.h"
#include "kernels/reference/linear.h"

namespace aerogel {
namespace {

std::string_view name_of(Activation activation) {
    constexpr std::array<std::string_view, 3> kNames = {"none", "per_token", "per_tensor"};
    return kNames.at(static_cast<std::size_t>(activation));
}

constexpr bool is_real(DType dtype) {
    return dtype == DType::f32 || dtype == DType::bf16;
}

}  // namespace

std::string LinearProblem::describe() const {
    std::string text = m == 0 ? "" : "m=" + std::to_string(m) + " ";
    text += "n=" + std::to_string(n) + " k=" + std::to_string(k) + " x=" + std::string(to_string(x)) +
            " y=" + std::string(to_string(y)) + " w=" + std::string(to_string(weight)) +
            " act=" + std::string(name_of(activation));
    if (group_size != 0) text += " group=" + std::to_string(group_size);
    if (weight_offset) text += " offset";
    return text;
}

std::string linear_limits(const LinearProblem& problem) {
    if (!is_real(problem.x) || !is_real(problem.y)) return "takes x and y of f32 or bf16 only";
    if (problem.activation == Activation::none) return "";
    if (problem.weight != Format::int8) return "quantized activations need int8 weights";
    if (problem.group_size != 0) return "quantized activations need one weight scale per row";
    if (problem.weight_offset) return "quantized activations need weights without an offset";
    constexpr std::int64_t kLargest = 131071;  // k * 128 * 128 < 2^31
    if (problem.k > kLargest) return "int32 sums hold k up to 131071";
    return "";
}

std::span<const LinearKernel> linear_kernels() {
    static const std::array kernels = {kAmxW8A8,  kAvx512W8A8, kAvx512W8A16, kAvx512Float,
                                       kAvx2W8A8, kAvx2W8A16,  kAvx2Float,   kReferenceLinear};
    return kernels;
}

}  // namespace aerogel
