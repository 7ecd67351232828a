// What a DiT does between its matrix products, on the device of the arrays: normalisation, activation
// functions, gated units, rotary embedding, gated residual, sums, copies. Float32, in contiguous rows, unless
// said otherwise. Every call checks devices, types and shapes: InvalidArgument ("[norm] ...").
#pragma once

#include <initializer_list>

#include "aerogel/context.h"
#include "aerogel/tensor.h"
#include "kernels/elementwise.h"

namespace aerogel {

/// The set for a device: AEROGEL_KERNEL's if it names one, else the best. The CPU's is chosen once.
const ElementwiseKernels& elementwise_kernels(Device device);

/// y = (x - mean) / sqrt(variance + epsilon), or x / rms (layer: Ba et al. 2016; rms: Zhang & Sennrich 2019),
/// times weight, plus bias, times 1 + scale, plus shift. What has no data is left out. Bfloat16 x and y on
/// the CPU are computed in float32 and rounded once.
struct Norm {
    NormKind kind = NormKind::layer;
    TensorView x;            ///< [rows, columns], rows contiguous, f32 or bf16
    MutableView y;           ///< like x; may be x
    TensorView weight = {};  ///< [columns]
    TensorView bias = {};    ///< [columns]
    TensorView scale = {};   ///< [parts, columns]: each part is for rows / parts rows
    TensorView shift = {};   ///< as scale, with its strides
    float epsilon = 1e-6F;
    bool silu = false;  ///< y = silu of that
};
void norm(const Norm& args, const Context& context = {});

/// y = f(x), contiguous; y may be x. Float32, or bfloat16 on the CPU: computed in float32, rounded once.
void activation(ActivationFunction function, const TensorView& x, const MutableView& y,
                const Context& context = {});

/// y = f(gate) * x (gated linear units, Shazeer 2020): [rows, columns] each, rows contiguous, so the two
/// halves of one array will do; y may be gate or x. Types as of activation().
void gated(ActivationFunction function, const TensorView& gate, const TensorView& x, const MutableView& y,
           const Context& context = {});

/// Rotary embedding (Su et al., RoFormer, 2021), in place: x [rows, heads * head_dim], row r is token
/// r % tokens; cos and sin [tokens, head_dim / 2], one per pair: neighbours, or halves of a head.
struct Rope {
    MutableView x;
    TensorView cos;
    TensorView sin;
    std::int64_t heads = 1;
    RopePairs pairs = RopePairs::neighbours;
};
void rope(const Rope& args, const Context& context = {});

/// x += y * gate: x [rows, columns]; y like x, or one row for all; gate [parts, columns], each part for rows
/// / parts rows, or without data.
void residual(const MutableView& x, const TensorView& y, const TensorView& gate = {},
              const Context& context = {});

/// y = sum of factor * x, from left to right, at most five terms; contiguous, of one shape, y may be any x.
/// Rounds products and sums to float32, or, with `wide`, the result of sums in double.
struct Term {
    double factor;
    TensorView x;
};
void combine(std::initializer_list<Term> terms, const MutableView& y, bool wide = false,
             const Context& context = {});

/// Gives every row of x the Euclidean norm of that row of `like`; rows of zeros stay. [rows, columns] each,
/// contiguous.
void match_norms(const MutableView& x, const TensorView& like, const Context& context = {});

/// y = x: f32, bf16 or f16 each, of one shape with at most eight axes, any strides; no overlap. On two
/// devices: contiguous and of one type.
void copy(const TensorView& x, const MutableView& y, const Context& context = {});

/// Group normalisation (Wu & He 2018) over all rows, then SiLU where asked for; contiguous.
struct GroupNorm {
    TensorView x;             ///< [rows, channels]
    MutableView y;            ///< like x; may be x
    std::int64_t groups = 1;  ///< a divisor of the channels
    TensorView weight = {};   ///< [channels], or without data, as bias
    TensorView bias = {};
    TensorView moments = {};  ///< group_moments() of what x is a part of, or without data: x's own
    float epsilon = 1e-6F;
    bool silu = false;
};
void group_norm(const GroupNorm& args, const Context& context = {});

/// f32 [groups, 2]: mean and variance of each of as many equal parts of the channels, over all rows of x
/// [rows, channels], contiguous.
Tensor group_moments(const TensorView& x, std::int64_t groups, const Context& context = {});

/// x = softmax(scale * x) of each row, in place; rows contiguous, scale > 0.
void softmax(const MutableView& x, float scale, const Context& context = {});

/// x between low and high, in place; contiguous. NaN stays.
void clamp(const MutableView& x, float low, float high, const Context& context = {});

/// Zeros; contiguous.
void clear(const MutableView& y);

/// False where a value is NaN or infinite: f32, contiguous.
bool all_finite(const TensorView& x, const Context& context = {});

/// `count` rows from `first` on of each of `items` times `each` rows.
struct RowRanges {
    std::int64_t items = 1, each = 0, first = 0, count = 0;
};

struct Difference {
    double difference = 0.0;  ///< mean of |x - y|
    double size = 0.0;        ///< mean of |y|
};

/// Of these rows of x and y, f32 [rows, columns], contiguous. Summed on the host, in double and in a fixed
/// order; arrays of other devices are copied there.
Difference difference(const Tensor& x, const Tensor& y, const RowRanges& rows, const Context& context = {});

}  // namespace aerogel
