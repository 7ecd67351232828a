// The scales of int8 attention, one block and one channel at a time.
#include <algorithm>
#include <cmath>
#include <limits>

#include "aerogel/number_types.h"
#include "kernels/reference/rows.h"

namespace aerogel::reference {
namespace {

/// Element c of a token of one map.
struct Operand {
    const AttentionProblem& problem;
    const void* data;
    AttentionStrides strides;
    std::int64_t tokens;
    const float* means = nullptr;

    std::int64_t maps() const { return problem.batch * problem.heads; }

    float value(std::int64_t map, std::int64_t token, std::int64_t c) const {
        const std::int64_t at = row_start(problem, strides, map, token) + c;
        return problem.dtype == DType::f32 ? static_cast<const float*>(data)[at]
                                           : to_float(static_cast<const BFloat16*>(data)[at]);
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

void attention_scales(const AttentionProblem& problem, const QuantizedAttentionArgs& args,
                      const ScaleSearch& search) noexcept {
    block_scales({problem, args.q, args.q_strides, problem.q_len}, search.q_tokens, search.q_scale);
    if (problem.k_len == 0) return;
    Operand k = {problem, args.k, args.k_strides, problem.k_len};
    Operand v = {problem, args.v, args.v_strides, problem.k_len};
    if (search.k_mean != nullptr) channel_means(k, search.k_mean);
    channel_means(v, search.v_mean);
    k.means = search.k_mean;
    v.means = search.v_mean;
    block_scales(k, search.k_tokens, search.k_scale);
    group_scales(v, search.v_scale);
}

}  // namespace aerogel::reference
