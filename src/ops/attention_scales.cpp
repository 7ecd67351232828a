// Largest values are found as integers: among floats without sign, order is integer order, and what is not
// finite comes last. That is exact and in vectors on every machine.
#include "ops/attention_scales.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "base/thread_pool.h"

namespace aerogel {
namespace {

constexpr std::int64_t kGroup = kQuantizedKeyGroup;
constexpr std::int64_t kMeanTokens = 512;  ///< tokens per partial sum: the order of a sum is fixed

float value(float x) {
    return x;
}
float value(BFloat16 x) {
    return to_float(x);
}

/// q, k or v of one call.
struct Operand {
    const AttentionProblem& problem;
    const void* data;
    AttentionStrides strides;
    std::int64_t tokens;
    const float* means;  ///< [maps][head_dim] or null

    template <typename Element>
    const Element* row(std::int64_t map, std::int64_t token) const {
        return static_cast<const Element*>(data) + map / problem.heads * strides.batch +
               map % problem.heads * strides.head + token * strides.token;
    }
    std::int64_t maps() const { return problem.batch * problem.heads; }
};

/// bits[c] = max(bits[c], |x - mean| of the row) as integers.
template <typename Element>
void raise(const Operand& of, std::int64_t map, std::int64_t token, std::int32_t* bits) {
    const Element* x = of.row<Element>(map, token);
    const std::int64_t d = of.problem.head_dim;
    const float* mean = of.means == nullptr ? nullptr : of.means + map * d;
    for (std::int64_t c = 0; c < d; ++c) {
        const float centred = mean == nullptr ? value(x[c]) : value(x[c]) - mean[c];
        bits[c] = std::max(bits[c], std::bit_cast<std::int32_t>(centred) & 0x7FFFFFFF);
    }
}

float scale_of(std::int32_t bits) {
    if (bits >= 0x7F800000) return std::numeric_limits<float>::quiet_NaN();
    const float scale = std::bit_cast<float>(bits) / 127.0F;
    return scale == 0.0F ? 1.0F : scale;
}

/// A scale per block of tokens, repeated for each of them.
template <typename Element>
std::vector<float> block_scales(const Operand& of, std::int64_t block_tokens) {
    std::vector<float> scales(static_cast<std::size_t>(of.maps() * of.tokens));
    const std::int64_t block = std::min(block_tokens, std::max<std::int64_t>(of.tokens, 1));
    const std::int64_t portion = block * std::max<std::int64_t>(64 / block, 1);
    const std::int64_t portions = (of.tokens + portion - 1) / portion;
    parallel_for(of.maps() * portions, [&](std::int64_t task, int) {
        const std::int64_t map = task / portions, begin = task % portions * portion;
        const std::int64_t end = std::min(begin + portion, of.tokens);
        for (std::int64_t first = begin; first < end; first += block) {
            std::int32_t bits[256] = {};
            const std::int64_t last = std::min(first + block, of.tokens);
            for (std::int64_t token = first; token < last; ++token) raise<Element>(of, map, token, bits);
            const float scale = scale_of(*std::max_element(bits, bits + of.problem.head_dim));
            std::fill(scales.data() + map * of.tokens + first, scales.data() + map * of.tokens + last, scale);
        }
    });
    return scales;
}

/// A scale per channel of every group of keys.
template <typename Element>
std::vector<float> group_scales(const Operand& of) {
    const std::int64_t groups = (of.tokens + kGroup - 1) / kGroup, d = of.problem.head_dim;
    std::vector<float> scales(static_cast<std::size_t>(of.maps() * groups * d));
    parallel_for(of.maps() * groups, [&](std::int64_t task, int) {
        std::int32_t bits[256] = {};
        const std::int64_t first = task % groups * kGroup;
        for (std::int64_t token = first; token < std::min(first + kGroup, of.tokens); ++token)
            raise<Element>(of, task / groups, token, bits);
        for (std::int64_t c = 0; c < d; ++c)
            scales[static_cast<std::size_t>(task * d + c)] = scale_of(bits[c]);
    });
    return scales;
}

template <typename Element>
std::vector<float> means(const Operand& of) {
    const std::int64_t d = of.problem.head_dim, portions = (of.tokens + kMeanTokens - 1) / kMeanTokens;
    std::vector<double> sums(static_cast<std::size_t>(of.maps() * portions * d));
    parallel_for(of.maps() * portions, [&](std::int64_t task, int) {
        double* sum = sums.data() + task * d;
        const std::int64_t first = task % portions * kMeanTokens;
        for (std::int64_t token = first; token < std::min(first + kMeanTokens, of.tokens); ++token) {
            const Element* x = of.row<Element>(task / portions, token);
            for (std::int64_t c = 0; c < d; ++c) sum[c] += static_cast<double>(value(x[c]));
        }
    });
    std::vector<float> result(static_cast<std::size_t>(of.maps() * d));
    for (std::int64_t map = 0; map < of.maps(); ++map) {
        for (std::int64_t c = 0; c < d; ++c) {
            double sum = 0.0;
            for (std::int64_t i = 0; i < portions; ++i)
                sum += sums[static_cast<std::size_t>((map * portions + i) * d + c)];
            result[static_cast<std::size_t>(map * d + c)] =
                static_cast<float>(sum / static_cast<double>(std::max<std::int64_t>(of.tokens, 1)));
        }
    }
    return result;
}

Operand query(const AttentionProblem& problem, const QuantizedAttentionArgs& args) {
    return {problem, args.q, args.q_strides, problem.q_len, nullptr};
}
Operand key(const AttentionProblem& problem, const QuantizedAttentionArgs& args) {
    return {problem, args.k, args.k_strides, problem.k_len, nullptr};
}
Operand values(const AttentionProblem& problem, const QuantizedAttentionArgs& args) {
    return {problem, args.v, args.v_strides, problem.k_len, nullptr};
}

template <typename Element>
Int8Scales find_scales(const AttentionProblem& problem, const QuantizedAttentionArgs& args,
                       const Int8Blocks& blocks) {
    Int8Scales scales;
    Operand k = key(problem, args), v = values(problem, args);
    if (blocks.smooth_k) {
        scales.k_mean = means<Element>(k);
        k.means = scales.k_mean.data();
    }
    scales.v_mean = means<Element>(v);
    scales.v_shift = scales.v_mean;
    v.means = scales.v_mean.data();
    scales.q_scale = block_scales<Element>(query(problem, args), blocks.q_tokens);
    scales.k_scale = block_scales<Element>(k, blocks.k_tokens);
    scales.v_scale = group_scales<Element>(v);
    return scales;
}

void check_scales(const char* name, const Tensor& tensor, std::int64_t heads, bool is_scale) {
    const std::string want =
        std::string("[quantized_attention] ") + name + " must be f32[" + std::to_string(heads) + ",1], got ";
    if (tensor.dtype() != DType::f32 || tensor.count() != heads || tensor.dim(0) != heads)
        throw InvalidArgument(want + tensor.describe());
    for (std::int64_t i = 0; i < heads; ++i) {
        const float x = tensor.as<float>()[i];
        const bool right =
            is_scale ? x > 0.0F && std::isfinite(x) : x >= -128.0F && x <= 127.0F && std::nearbyint(x) == x;
        if (!right)
            throw InvalidArgument(std::string("[quantized_attention] ") + name + " must be " +
                                  (is_scale ? "positive" : "a whole number in -128..127") + ", got " +
                                  std::to_string(x) + " for head " + std::to_string(i));
    }
}

/// One value per map; undefined = none.
std::vector<float> per_map(const char* name, const Tensor& tensor, const AttentionProblem& problem,
                           bool is_scale) {
    if (!is_scale && !tensor.defined()) return {};
    if (!tensor.defined())
        throw InvalidArgument(std::string("[quantized_attention] ") + name + " is missing");
    check_scales(name, tensor, problem.heads, is_scale);
    std::vector<float> result;
    for (std::int64_t map = 0; map < problem.batch * problem.heads; ++map)
        result.push_back(tensor.as<float>()[map % problem.heads]);
    return result;
}

/// Replaces the scales found by the map's own, except NaN.
void overwrite(std::vector<float>& found, const std::vector<float>& per_map) {
    const std::size_t each = per_map.empty() ? 0 : found.size() / per_map.size();
    for (std::size_t i = 0; i < found.size(); ++i)
        if (!std::isnan(found[i])) found[i] = per_map[i / each];
}

const float* pointer(const std::vector<float>& values) {
    return values.empty() ? nullptr : values.data();
}

}  // namespace

void Int8Scales::fill(QuantizedAttentionArgs& args) const {
    args.q_scale = pointer(q_scale);
    args.k_scale = pointer(k_scale);
    args.v_scale = pointer(v_scale);
    args.q_offset = pointer(q_offset);
    args.k_offset = pointer(k_offset);
    args.v_offset = pointer(v_offset);
    args.k_mean = pointer(k_mean);
    args.v_mean = pointer(v_mean);
    args.v_shift = pointer(v_shift);
}

Int8Scales dynamic_scales(const AttentionProblem& problem, const QuantizedAttentionArgs& args,
                          const Int8Blocks& blocks) {
    return problem.dtype == DType::f32 ? find_scales<float>(problem, args, blocks)
                                       : find_scales<BFloat16>(problem, args, blocks);
}

Int8Scales static_scales(const AttentionProblem& problem, const QuantizedAttentionArgs& args,
                         const AttentionScales& given) {
    const std::vector<float> q = per_map("q_scale", given.q_scale, problem, true);
    const std::vector<float> k = per_map("k_scale", given.k_scale, problem, true);
    const std::vector<float> v = per_map("v_scale", given.v_scale, problem, true);
    Int8Scales scales = dynamic_scales(problem, args, {1, 1, false});
    overwrite(scales.q_scale, q);
    overwrite(scales.k_scale, k);
    overwrite(scales.v_scale, v);
    scales.v_mean.clear();
    scales.v_shift.clear();
    scales.q_offset = per_map("q_offset", given.q_offset, problem, false);
    scales.k_offset = per_map("k_offset", given.k_offset, problem, false);
    scales.v_offset = per_map("v_offset", given.v_offset, problem, false);
    for (std::size_t map = 0; map < scales.v_offset.size(); ++map)
        scales.v_shift.insert(scales.v_shift.end(), static_cast<std::size_t>(problem.head_dim),
                              -scales.v_offset[map] * v[map]);
    return scales;
}

}  // namespace aerogel
