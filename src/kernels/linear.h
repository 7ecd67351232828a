// Kernels of y[m,n] = x[m,k] * w[n,k]^T + bias: what a kernel is asked, what it is given, and the
// ordered list of those that exist.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "aerogel/quantized_tensor.h"
#include "kernels/hadamard.h"

namespace aerogel {

/// When and how activations are quantized; x' = x * mul_scale, all roundings are to nearest, ties to even.
enum class Activation : std::uint8_t {
    none,            ///< x' is used as it is (float or weight-only schemes)
    per_token,       ///< int8, dynamic: s_t = max_k|x'|/127, x_q = round(x'/s_t)
    per_tensor,      ///< int8, static: x_q = clamp(round(x'/input_scale + input_offset), -128, 127)
    per_token_int4,  ///< dynamic: s_t = max_k|x'|/7, x_q = clamp(round(x'/s_t), -8, 7)
    per_token_fp8,   ///< E4M3, dynamic: s_t = max_k|x'|/448, x_q = x'/s_t rounded and saturated
    mxfp8,           ///< E4M3 per 32 columns: e = floor(log2 max|x'|) - 8 (at least -127), x_q = x'/2^e
    mxfp4,           ///< E2M1 per 32 columns: e = floor(log2 max|x'|) - 2 (at least -127), x_q = x'/2^e
    mxfp4_dual,  ///< D = max|x'|/6 per 512 columns (whatever the weight has), then mxfp4 of x'/D rounded to
                 ///< x's type
};

/// Everything a kernel's choice depends on. m == 0 while packing (the weight must serve any m).
struct LinearProblem {
    std::int64_t m = 0;
    std::int64_t n = 0;
    std::int64_t k = 0;
    DType x = DType::f32;  ///< f32 or bf16, or f16 where the kernel takes it
    DType y = DType::f32;  ///< f32, bf16 or f16
    Format weight = Format::f32;
    Activation activation = Activation::none;
    std::int64_t group_size = 0;  ///< columns per weight scale, 0 = whole row
    bool weight_offset = false;
    std::int64_t dual_block = 512;  ///< columns per dual scale of mxfp4_dual weights
    bool rotated = false;           ///< LinearArgs::rotation is given; for kernels that rotate

    /// "m=4 n=8 k=16 x=f32 y=f32 w=int8 act=per_token".
    std::string describe() const;
};

/// Pointers of one call. Rows of x and y are x_stride / y_stride elements apart.
/// none:           y = x' w^T + bias; with AVX-512 BF16, where x' and w are bf16, numbers and sums below
///                 2^-126 count as 0: at most k (|x'| + |w| + 1) 2^-126 more
/// per_token, per_token_int4:  (float32, in this order, groups of columns ascending)
///   one scale:    y = (float(sum x_q w_q) * w_scale[n]) * s_t + bias[n]
///   groups:       y = (sum_g float(sum_(k in g) x_q w_q) * w_scale[n,g]) * s_t + bias[n]
/// per_tensor:     y = float(sum x_q w_q + quant_bias[n]) * deq_scale[n]
/// per_token_fp8:  y = (x_q w^T) * s_t + bias
/// mx...:          y = (x_q * 2^e [* D]) w^T + bias
/// A block or row whose s_t or D is no normal number (zeros above all) takes 1 instead; per_token does so at
/// 0 only, with x_q clamped to -128 .. 127. Where scales are dynamic, a row with a NaN or an infinity gives a
/// row of NaN. In per_tensor a NaN counts as 0.
struct LinearArgs {
    const void* x = nullptr;
    std::int64_t x_stride = 0;
    void* y = nullptr;
    std::int64_t y_stride = 0;
    const std::byte* packed = nullptr;  ///< made by the same kernel's pack()
    const float* mul_scale = nullptr;   ///< [k] or null
    RowRotation rotation =
        {};  ///< of x instead of mul_scale, where problem.rotated: x' is what it makes of x
    const std::int32_t* column_order = nullptr;  ///< [k] or null: column i of x' is made of that one of x,
                                                 ///< for kernels that order; mul_scale is null then
    const float* bias = nullptr;                 ///< [n] or null (all but per_tensor)
    float input_scale = 1.0F;                    ///< per_tensor
    float input_offset = 0.0F;                   ///< per_tensor, integral
    const std::int32_t* quant_bias = nullptr;    ///< [n], per_tensor
    const float* deq_scale = nullptr;            ///< [n], per_tensor
    std::byte* workspace = nullptr;              ///< workspace_bytes(problem), 64-byte aligned
    void* stream = nullptr;                      ///< of the device (Context::stream)
};

struct LinearKernel {
    std::string_view name;  ///< "cpu.avx2.w8a8"
    /// Empty, or why this kernel refuses the problem ("takes int8 weights only").
    std::string (*why_not)(const LinearProblem& problem);
    /// Bytes of the packed weight (64-byte aligned storage is provided).
    std::size_t (*packed_bytes)(const LinearProblem& problem);
    /// Packs once, for any m, on the host, whatever device runs it: the packed bytes then go there. The
    /// packed form holds the weight scales as well, and is the same for all activations that same_packing()
    /// joins.
    void (*pack)(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept;
    std::size_t (*workspace_bytes)(const LinearProblem& problem);
    void (*run)(const LinearProblem& problem, const LinearArgs& args) noexcept;
    bool rotates = false;  ///< run() takes a LinearArgs::rotation, with the bits of the Hadamard kernels
    std::int64_t most_rotated = std::numeric_limits<std::int64_t>::max();  ///< columns of its blocks
    bool f16 = false;                                                      ///< takes x of f16, too
    bool orders = false;  ///< run() takes a LinearArgs::column_order
};

/// "per_token" ...
std::string_view to_string(Activation activation);
/// int8 or int4 activations, whose products with integer weights are summed exactly.
bool is_integer(Activation activation);
/// True when a weight packed for one serves the other: both integer, or none of them.
bool same_packing(Activation a, Activation b);

/// What no kernel takes (`f16`: one that takes x of f16), empty when fine: other types of x and y than above,
/// quantized activations with weights of a format they do not go with or with an offset, groups in
/// per_tensor, or k > 131071 with integers (the int32 sum could overflow). Refusals depend on the weight and
/// the activation only, never on m, x or y.
std::string linear_limits(const LinearProblem& problem, bool f16 = false);

}  // namespace aerogel
