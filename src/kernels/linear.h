// Kernels of y[m,n] = x[m,k] * w[n,k]^T + bias: what a kernel is asked, what it is given, and the
// ordered list of those that exist.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "aerogel/quantized_tensor.h"
#include "base/cpu_features.h"

namespace aerogel {

/// When and how activations are quantized.
enum class Activation : std::uint8_t {
    none,        ///< x is used as it is (float or weight-only schemes)
    per_token,   ///< dynamic: s_t = max_k|x'|/127, x_q = round_half_even(x'/s_t); x' = x * mul_scale
    per_tensor,  ///< static: x_q = clamp(round_half_even(x'/input_scale + input_offset), -128, 127)
};

/// Everything a kernel's choice depends on. m == 0 while packing (the weight must serve any m).
struct LinearProblem {
    std::int64_t m = 0;
    std::int64_t n = 0;
    std::int64_t k = 0;
    DType x = DType::f32;  ///< f32 or bf16
    DType y = DType::f32;  ///< f32 or bf16
    Format weight = Format::f32;
    Activation activation = Activation::none;
    std::int64_t group_size = 0;  ///< columns per weight scale, 0 = whole row
    bool weight_offset = false;

    /// "m=4 n=8 k=16 x=f32 y=f32 w=int8 act=per_token".
    std::string describe() const;
};

/// Pointers of one call. Rows of x and y are x_stride / y_stride elements apart.
/// none:       y = x' w^T + bias
/// per_token:  y = (float(sum x_q w_q) * s_t) * w_scale[n] + bias[n]        (float32, in this order)
/// per_tensor: y = float(sum x_q w_q + quant_bias[n]) * deq_scale[n]
/// In per_token a row whose s_t is 0 (all zeros) takes s_t = 1, x_q is clamped to -128 .. 127 (only denormal
/// s_t need it), and a row with a NaN or an infinity gives a row of NaN. In per_tensor a NaN counts as 0.
struct LinearArgs {
    const void* x = nullptr;
    std::int64_t x_stride = 0;
    void* y = nullptr;
    std::int64_t y_stride = 0;
    const std::byte* packed = nullptr;         ///< made by the same kernel's pack()
    const float* mul_scale = nullptr;          ///< [k] or null
    const float* bias = nullptr;               ///< [n] or null (none, per_token)
    float input_scale = 1.0F;                  ///< per_tensor
    float input_offset = 0.0F;                 ///< per_tensor, integral
    const std::int32_t* quant_bias = nullptr;  ///< [n], per_tensor
    const float* deq_scale = nullptr;          ///< [n], per_tensor
    std::byte* workspace = nullptr;            ///< workspace_bytes(problem), 64-byte aligned
};

struct LinearKernel {
    std::string_view name;  ///< "cpu.avx2.w8a8"
    CpuLevel level;
    /// Empty, or why this kernel refuses the problem ("takes int8 weights only").
    std::string (*why_not)(const LinearProblem& problem);
    /// Bytes of the packed weight (64-byte aligned storage is provided).
    std::size_t (*packed_bytes)(const LinearProblem& problem);
    /// Packs once, for any m. The packed form holds the weight scales as well, and is the same for
    /// per_token and per_tensor.
    void (*pack)(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept;
    std::size_t (*workspace_bytes)(const LinearProblem& problem);
    void (*run)(const LinearProblem& problem, const LinearArgs& args) noexcept;
};

/// What no kernel takes, empty when fine: other types of x and y than f32 and bf16, quantized activations
/// with anything but int8 weights with one scale per row and no offset, or with k > 131071 (the int32
/// sum could overflow). Refusals depend on the weight and the activation only, never on m, x or y.
std::string linear_limits(const LinearProblem& problem);

/// Best first, the reference last. Kernels of levels this CPU lacks are listed too.
std::span<const LinearKernel> linear_kernels();

}  // namespace aerogel
