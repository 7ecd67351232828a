// Kernels of the operations between the matrix products of a DiT: normalisation with modulation,
// GELU/SiLU, gated units, rotary embedding, gated residual, sums and copies. Float32 unless said otherwise,
// rows contiguous.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "aerogel/tensor.h"

namespace aerogel {

enum class NormKind : std::uint8_t { layer, rms };

/// y[r,:] = norm(x[r,:]) * (weight) + (bias), then * (1 + scale) + shift. Null pointers are left out.
/// Row r uses scale/shift row r / rows_per_modulation (one per batch item, or per token).
struct NormArgs {
    NormKind kind = NormKind::layer;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    const float* x = nullptr;
    std::int64_t x_stride = 0;
    float* y = nullptr;
    std::int64_t y_stride = 0;
    const float* weight = nullptr;
    const float* bias = nullptr;
    const float* scale = nullptr;
    const float* shift = nullptr;
    std::int64_t rows_per_modulation = 1;
    std::int64_t modulation_stride = 0;  ///< elements between two rows of scale / shift
    float epsilon = 1e-6F;
    bool silu = false;       ///< of the result, at the end
    void* stream = nullptr;  ///< of the device (Context::stream), as in all of these
};

/// GELU with the tanh approximation, GELU with erf, SiLU, the hyperbolic tangent.
enum class ActivationFunction : std::uint8_t { gelu_tanh, gelu_erf, silu, tanh };

/// y[i] = f(x[i]) for i < count, in place allowed.
struct ActivationArgs {
    ActivationFunction function = ActivationFunction::silu;
    const float* x = nullptr;
    float* y = nullptr;
    std::int64_t count = 0;
    void* stream = nullptr;
};

/// y[r,:] = f(gate[r,:]) * x[r,:]; y may be gate or x.
struct GatedArgs {
    ActivationFunction function = ActivationFunction::silu;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    const float* gate = nullptr;
    std::int64_t gate_stride = 0;
    const float* x = nullptr;
    std::int64_t x_stride = 0;
    float* y = nullptr;
    std::int64_t y_stride = 0;
    void* stream = nullptr;
};

/// Which elements of a head are one pair i: 2i and 2i+1, or i and head_dim/2 + i (GPT-NeoX; transformers'
/// rotate_half).
enum class RopePairs : std::uint8_t { neighbours, halves };

/// Rotates the pairs of every head: x[r, h*head_dim + ...] by cos/sin[token(r), i].
struct RopeArgs {
    RopePairs pairs = RopePairs::neighbours;
    std::int64_t rows = 0;    ///< batch * tokens
    std::int64_t tokens = 0;  ///< row r is token r % tokens
    std::int64_t heads = 0;
    std::int64_t head_dim = 0;
    float* x = nullptr;  ///< in place
    std::int64_t x_stride = 0;
    const float* cos = nullptr;  ///< [tokens, head_dim/2]
    const float* sin = nullptr;
    void* stream = nullptr;
};

/// x[r,:] += y[r,:] * gate[r / rows_per_gate, :] (gate null: plain sum).
struct ResidualArgs {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    float* x = nullptr;
    std::int64_t x_stride = 0;
    const float* y = nullptr;
    std::int64_t y_stride = 0;  ///< 0: the same row for all
    const float* gate = nullptr;
    std::int64_t rows_per_gate = 1;
    std::int64_t gate_stride = 0;
    void* stream = nullptr;
};

/// y[i] = factor[0] * x[0][i] + factor[1] * x[1][i] + ... for i < count, from left to right. Each product and
/// each sum is rounded, in float32 or, `wide`, in double with the result rounded once. y may be any x.
struct CombineArgs {
    static constexpr std::size_t kMostTerms = 5;
    std::int64_t count = 0;
    std::size_t terms = 0;
    std::array<double, kMostTerms> factor = {};
    std::array<const float*, kMostTerms> x = {};
    float* y = nullptr;
    bool wide = false;
    void* stream = nullptr;
};

/// y = x over `axes` axes, the last one fastest; strides count elements and may be 0 or negative. f32, bf16
/// or f16 on either side, rounded to nearest. x and y do not overlap.
struct CopyArgs {
    static constexpr std::size_t kMostAxes = 8;
    std::size_t axes = 0;  ///< at least 1
    std::array<std::int64_t, kMostAxes> shape = {}, x_strides = {}, y_strides = {};
    DType x_type = DType::f32, y_type = DType::f32;
    const void* x = nullptr;
    void* y = nullptr;
    void* stream = nullptr;
};

/// x[r,:] *= |like[r,:]| / |x[r,:]|, Euclidean norms in double; rows of zeros stay. Contiguous.
struct MatchNormsArgs {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    float* x = nullptr;
    const float* like = nullptr;
    void* stream = nullptr;
};

/// y = norm(x) * weight + bias, then SiLU where asked for: mean and variance of all rows over each of
/// `groups` equal parts of the channels. y may be x. `moments` [groups, 2], means and variances, are used in
/// place of x's own; where `found` is given, x's own are put there, and nothing else is done.
struct GroupNormArgs {
    std::int64_t rows = 0;
    std::int64_t channels = 0;
    std::int64_t groups = 1;   ///< a divisor of channels
    const float* x = nullptr;  ///< [rows, channels], contiguous, as y
    float* y = nullptr;
    const float* weight = nullptr;  ///< [channels] or null, as bias
    const float* bias = nullptr;
    float epsilon = 1e-6F;
    bool silu = false;
    const float* moments = nullptr;
    float* found = nullptr;
    float* workspace = nullptr;  ///< group_norm_floats()
    void* stream = nullptr;
};

/// Rows per partial sum, which fixes the order of the additions.
constexpr std::int64_t kGroupNormRows = 128;
constexpr std::int64_t group_norm_chunks(std::int64_t rows) {
    return (rows + kGroupNormRows - 1) / kGroupNormRows;
}
constexpr std::int64_t group_norm_floats(std::int64_t rows, std::int64_t channels) {
    return 2 * (group_norm_chunks(rows) + 1) * channels;
}

/// x[r,:] = softmax(scale * x[r,:]), scale > 0.
struct SoftmaxArgs {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    float* x = nullptr;
    std::int64_t x_stride = 0;
    float scale = 1.0F;
    void* stream = nullptr;
};

/// x[i] = x[i] between low and high, for i < count; NaN stays, or with clears_nan becomes low.
struct ClampArgs {
    float* x = nullptr;
    std::int64_t count = 0;
    float low = -1.0F, high = 1.0F;
    bool clears_nan = false;
    void* stream = nullptr;
};

/// Where the search of a NaN or an infinity looks.
struct FiniteArgs {
    const float* x = nullptr;
    std::int64_t count = 0;
    void* stream = nullptr;
};

struct ElementwiseKernels {
    std::string_view name;  ///< "cpu.avx2.elementwise"
    void (*norm)(const NormArgs& args) noexcept;
    void (*activation)(const ActivationArgs& args) noexcept;
    void (*gated)(const GatedArgs& args) noexcept;
    void (*rope)(const RopeArgs& args) noexcept;
    void (*residual)(const ResidualArgs& args) noexcept;
    void (*combine)(const CombineArgs& args) noexcept;
    void (*copy)(const CopyArgs& args) noexcept;
    void (*match_norms)(const MatchNormsArgs& args) noexcept;
    bool (*all_finite)(const FiniteArgs& args) noexcept;  ///< waits for the answer
    void (*group_norm)(const GroupNormArgs& args) noexcept;
    void (*softmax)(const SoftmaxArgs& args) noexcept;
    void (*clamp)(const ClampArgs& args) noexcept;
};

}  // namespace aerogel
