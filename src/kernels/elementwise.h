// Kernels of the operations between the matrix products of a DiT: normalisation with modulation,
// GELU/SiLU, rotary embedding, gated residual. All float32, rows contiguous.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

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
};

/// GELU with the tanh approximation, GELU with erf, SiLU: y = f(x), in place allowed.
enum class ActivationFunction : std::uint8_t { gelu_tanh, gelu_erf, silu };

/// Rotates pairs (2i, 2i+1) of every head: x[r, h*head_dim + ...] by cos/sin[token(r), i].
struct RopeArgs {
    std::int64_t rows = 0;    ///< batch * tokens
    std::int64_t tokens = 0;  ///< row r is token r % tokens
    std::int64_t heads = 0;
    std::int64_t head_dim = 0;
    float* x = nullptr;  ///< in place
    std::int64_t x_stride = 0;
    const float* cos = nullptr;  ///< [tokens, head_dim/2]
    const float* sin = nullptr;
};

/// x[r,:] += y[r,:] * gate[r / rows_per_gate, :] (gate null: plain sum).
struct ResidualArgs {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    float* x = nullptr;
    const float* y = nullptr;
    const float* gate = nullptr;
    std::int64_t rows_per_gate = 1;
    std::int64_t gate_stride = 0;
};

struct ElementwiseKernels {
    std::string_view name;  ///< "cpu.avx2.elementwise"
    void (*norm)(const NormArgs& args) noexcept;
    void (*activation)(ActivationFunction function, const float* x, float* y, std::int64_t count) noexcept;
    void (*rope)(const RopeArgs& args) noexcept;
    void (*residual)(const ResidualArgs& args) noexcept;
};

}  // namespace aerogel
