// The scales of int8 attention, one block and one channel at a time.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/rows.h"

namespace aerogel::reference {
namespace {

/// Element c of a token of one map.
struct Operand {
    const AttentionProblem& problem;
    const void* data;
    AttentionStrides strides;
    std::int64_t heads, tokens;
    const float* means = nullptr;

    std::int64_t maps() const { return problem.batch * heads; }

    float value(std::int64_t map, std::int64_t token, std::int64_t c) const {
        return load(data, problem.dtype, row_start(strides, heads, map, token) + c);
    }
    float centred(std::int64_t map, std::int64_t token, std::int64_t c) const {
        const float x = value(map, token, c);
        return means == nullptr ? x : x - means[map * problem.head_dim + c];
    }
};

/// Tokens first..last-1 and channels begin..end-1 of one map, which share a scale.
struct Shared {
    std::int64_t map, first, last, begin, end;
};

float scale_of(const Operand& of, const Shared& shared) {
    float largest = 0.0F;
    for (std::int64_t token = shared.first; token < shared.last; ++token) {
        for (std::int64_t c = shared.begin; c < shared.end; ++c) {
            const float x = of.centred(shared.map, token, c);
            if (!std::isfinite(x)) return std::numeric_limits<float>::quiet_NaN();
            largest = std::max(largest, std::fabs(x));
        }
    }
    const float scale = largest / 127.0F;
    return scale == 0.0F ? 1.0F : scale;
}

void block_scales(const Operand& of, std::int64_t block, float* scales) {
    for (std::int64_t map = 0; map < of.maps(); ++map) {
        for (std::int64_t first = 0; first < of.tokens; first += block) {
            const std::int64_t last = std::min(first + block, of.tokens);
            const float scale = scale_of(of, {map, first, last, 0, of.problem.head_dim});
            scales = std::fill_n(scales, last - first, scale);
        }
    }
}

void group_scales(const Operand& of, float* scales) {
    for (std::int64_t map = 0; map < of.maps(); ++map) {
        for (std::int64_t first = 0; first < of.tokens; first += kQuantizedKeyGroup) {
            const std::int64_t last = std::min(first + kQuantizedKeyGroup, of.tokens);
            for (std::int64_t c = 0; c < of.problem.head_dim; ++c)
                *scales++ = scale_of(of, {map, first, last, c, c + 1});
        }
    }
}

/// The sum of one channel over a few tokens.
float few(const Operand& of, const Shared& shared) {
    float sum = 0.0F;
    for (std::int64_t token = shared.first; token < shared.last; ++token)
        sum += of.value(shared.map, token, shared.begin);
    return sum;
}

void channel_means(const Operand& of, float* means) {
    for (std::int64_t map = 0; map < of.maps(); ++map) {
        for (std::int64_t c = 0; c < of.problem.head_dim; ++c) {
            double sum = 0.0;
            for (std::int64_t first = 0; first < of.tokens; first += kMeanTokens) {
                const std::int64_t last = std::min(first + kMeanTokens, of.tokens);
                double portion = 0.0;
                for (std::int64_t token = first; token < last; token += kFloatTokens)
                    portion += static_cast<double>(
                        few(of, {map, token, std::min(token + kFloatTokens, last), c, c + 1}));
                sum += portion;
            }
            *means++ = static_cast<float>(sum / static_cast<double>(of.tokens));
        }
    }
}

}  // namespace

void int8_scales(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const Int8Arrays& to = call.int8;
    block_scales({problem, call.q, call.q_strides, problem.heads, problem.q_len}, call.q_tokens, to.q_scale);
    if (problem.k_len == 0) return;
    Operand k = {problem, call.k, call.k_strides, problem.kv_heads, problem.k_len};
    Operand v = {problem, call.v, call.v_strides, problem.kv_heads, problem.k_len};
    if (call.smooth_k) {
        channel_means(k, to.k_mean);
        k.means = to.k_mean;
    }
    channel_means(v, to.v_mean);
    v.means = to.v_mean;
    block_scales(k, call.k_tokens, to.k_scale);
    group_scales(v, to.v_scale);
}

}  // namespace aerogel::reference
