// Kernels of o = softmax(scale * q k^T) v per batch and head, over all keys or over the key blocks
// that a BlockMask keeps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "aerogel/block_mask.h"
#include "aerogel/tensor.h"

namespace aerogel {

struct AttentionProblem {
    std::int64_t batch = 1;
    std::int64_t heads = 1;
    std::int64_t q_len = 0;
    std::int64_t k_len = 0;
    std::int64_t head_dim = 0;  ///< of q, k, v and o
    DType dtype = DType::f32;   ///< of q, k, v and o: f32 or bf16 (sums are float32 either way)
    bool masked = false;
    std::int64_t block_q = 0;  ///< of the mask
    std::int64_t block_k = 0;
    bool causal = false;  ///< query i sees no key behind i + k_len - q_len

    std::string describe() const;
};

/// Element (b, h, s, d) lies at b*batch + h*head + t*token + d (in elements), where t is s, or order[map][s]
/// with map = b*heads + h: the tokens of a map in any order, which every map then has.
struct AttentionStrides {
    std::int64_t batch = 0;
    std::int64_t head = 0;
    std::int64_t token = 0;
    const std::int32_t* const* order = nullptr;
};

struct AttentionArgs {
    const void* q = nullptr;
    const void* k = nullptr;
    const void* v = nullptr;
    void* o = nullptr;
    AttentionStrides q_strides, k_strides, v_strides, o_strides;
    float scale = 1.0F;
    const BlockMask* mask = nullptr;  ///< null = dense. A query row that sees no key gives zeros.
    std::byte* workspace = nullptr;   ///< workspace_bytes(problem), 64-byte aligned
};

struct AttentionKernel {
    std::string_view name;  ///< "cpu.avx512.attention"
    std::string (*why_not)(const AttentionProblem& problem);
    std::size_t (*workspace_bytes)(const AttentionProblem& problem);
    void (*run)(const AttentionProblem& problem, const AttentionArgs& args) noexcept;
    /// To bfloat16 before they meet v; numbers of bfloat16 below 2^-126 then count as zero.
    bool rounds_weights = false;
};

}  // namespace aerogel
