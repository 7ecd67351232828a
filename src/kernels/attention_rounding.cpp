// Plain loops over rows of head_dim values; the products that follow cost far more.
#include "kernels/attention_rounding.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/mx.h"

namespace aerogel {
namespace {

constexpr std::int64_t kChannels = 16;  // of one task
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// Calls visit(map, first token, last token) in parallel.
template <typename Visit>
void for_blocks(const RoundedRows& x, std::int64_t tokens, const Visit& visit) {
    const std::int64_t block = std::clamp<std::int64_t>(tokens, 1, std::max<std::int64_t>(x.tokens, 1));
    const std::int64_t blocks = (x.tokens + block - 1) / block;
    parallel_for(x.maps * blocks, [&](std::int64_t task, int) {
        const std::int64_t first = task % blocks * block;
        visit(task / blocks, first, std::min(first + block, x.tokens));
    });
}

/// Calls visit(map, first channel, last channel) in parallel, with channels that fill cache lines.
template <typename Visit>
void for_channels(const RoundedRows& x, const Visit& visit) {
    const std::int64_t parts = (x.head_dim + kChannels - 1) / kChannels;
    parallel_for(x.maps * parts, [&](std::int64_t task, int) {
        const std::int64_t first = task % parts * kChannels;
        visit(task / parts, first, std::min(first + kChannels, x.head_dim));
    });
}

/// Largest |x|; NaN when any is not finite.
float larger_magnitude(float largest, float x) {
    return std::isfinite(x) && !std::isnan(largest) ? std::max(largest, std::fabs(x)) : kNaN;
}

constexpr float kLargestFloat8 = 448.0F, kLargestInt8 = 127.0F;

/// The scale that brings `largest` to the end of the grid; 1 where that is below float32.
float scale_of(float largest, float grid_end) {
    const float scale = largest / grid_end;
    return scale == 0.0F ? 1.0F : scale;
}

/// Values that share a scale: so many tokens of a map, so many of their channels.
struct ScaleBlock {
    std::int64_t tokens, channels;
    float grid_end;
};

/// Rounds every block of a map with a scale of its own.
template <typename Round>
void round_blocks(const RoundedRows& x, const ScaleBlock& block, const Round& round) {
    const auto round_part = [&](std::int64_t map, std::int64_t first, std::int64_t last, std::int64_t begin) {
        const std::int64_t end = std::min(begin + block.channels, x.head_dim);
        float largest = 0.0F;
        for (std::int64_t t = first; t < last; ++t)
            for (std::int64_t c = begin; c < end; ++c) largest = larger_magnitude(largest, x.row(map, t)[c]);
        const float scale = scale_of(largest, block.grid_end);
        for (std::int64_t t = first; t < last; ++t) {
            float* row = x.row(map, t);
            for (std::int64_t c = begin; c < end; ++c) row[c] = round(row[c] / scale) * scale;
        }
    };
    for_blocks(x, block.tokens, [&](std::int64_t map, std::int64_t first, std::int64_t last) {
        for (std::int64_t begin = 0; begin < x.head_dim; begin += block.channels)
            round_part(map, first, last, begin);
    });
}

/// What MX blocks hold, and how E2M1 finds its scale.
struct MxBlocks {
    MxElement element;
    const Mxfp4Scale& scale;

    int exponent(float largest) const {
        return element == MxElement::e4m3 ? mx_exponent(largest, 8) : mxfp4_exponent_of(largest, scale);
    }
};

/// The rounding of one MX block whose largest magnitude is known.
struct MxRounding {
    MxRounding(float largest, const MxBlocks& of)
        : element(of.element),
          exponent(std::isnan(largest) ? 0 : of.exponent(largest)),
          poison(std::isnan(largest)) {}

    float operator()(float x) const {
        if (poison) return kNaN;
        const float scaled = std::ldexp(x, -exponent);
        const float rounded = element == MxElement::e4m3 ? to_float(to_float8_e4m3(scaled, true))
                                                         : to_float(to_float4_e2m1(scaled));
        return std::ldexp(rounded, exponent);
    }

    MxElement element;
    int exponent;
    bool poison;
};

void round_channels(float* row, std::int64_t d, const MxBlocks& blocks) {
    for (std::int64_t first = 0; first < d; first += kMxBlock) {
        const std::int64_t last = std::min(first + kMxBlock, d);
        float largest = 0.0F;
        for (std::int64_t c = first; c < last; ++c) largest = larger_magnitude(largest, row[c]);
        const MxRounding rounding(largest, blocks);
        for (std::int64_t c = first; c < last; ++c) row[c] = rounding(row[c]);
    }
}

/// Some channels of a map.
struct MapChannels {
    std::int64_t map, first, last;
};

/// Takes off the means of channels with these sums.
void subtract(const RoundedRows& x, const MapChannels& of, const double* sums) {
    float means[kChannels];
    for (std::int64_t c = 0; c < of.last - of.first; ++c)
        means[c] = static_cast<float>(sums[c] / static_cast<double>(std::max<std::int64_t>(x.tokens, 1)));
    for (std::int64_t t = 0; t < x.tokens; ++t)
        for (std::int64_t c = of.first; c < of.last; ++c) x.row(of.map, t)[c] -= means[c - of.first];
}

/// Heads of k and v whose copies, with those of their queries and outputs, fit some memory: at least one.
std::int64_t heads_at_once(const AttentionProblem& problem) {
    constexpr std::int64_t kFloats = std::int64_t{16} << 20;
    const std::int64_t rows = 2 * (problem.group() * problem.q_len + problem.k_len);
    return std::clamp<std::int64_t>(kFloats / std::max<std::int64_t>(rows * problem.head_dim, 1), 1,
                                    problem.kv_heads);
}

/// The float problem of so many heads of k and v.
AttentionProblem float_problem(const AttentionProblem& problem, std::int64_t kv_heads) {
    AttentionProblem part = problem;
    part.batch = 1;
    part.heads = kv_heads * problem.group();
    part.kv_heads = kv_heads;
    part.dtype = DType::f32;
    part.format = AttentionFormat::none;
    return part;
}

/// Where some maps lie in the caller's arrays.
struct CallerRows {
    const void* data;
    const AttentionStrides& strides;
    DType dtype;
    std::int64_t heads, first_map;

    std::int64_t at(std::int64_t map, std::int64_t token) const {
        const std::int64_t index = first_map + map;
        if (strides.order != nullptr) token = strides.order[index][token];
        return index / heads * strides.batch + index % heads / strides.shared * strides.head +
               token * strides.token;
    }
};

void copy_in(const CallerRows& from, const RoundedRows& to) {
    parallel_for(to.maps * to.tokens, [&](std::int64_t row, int) {
        const std::int64_t at = from.at(row / to.tokens, row % to.tokens);
        float* out = to.data + row * to.head_dim;
        for (std::int64_t c = 0; c < to.head_dim; ++c)
            out[c] = from.dtype == DType::f32 ? static_cast<const float*>(from.data)[at + c]
                                              : to_float(static_cast<const BFloat16*>(from.data)[at + c]);
    });
}

void copy_out(const RoundedRows& from, const CallerRows& to, void* data) {
    parallel_for(from.maps * from.tokens, [&](std::int64_t row, int) {
        const std::int64_t at = to.at(row / from.tokens, row % from.tokens);
        const float* x = from.data + row * from.head_dim;
        for (std::int64_t c = 0; c < from.head_dim; ++c) {
            if (to.dtype == DType::f32) {
                static_cast<float*>(data)[at + c] = x[c];
            } else {
                static_cast<BFloat16*>(data)[at + c] = to_bfloat16(x[c]);
            }
        }
    });
}

void round_operands(const AttentionProblem& problem, const AttentionCall& call, const RoundedRows& q,
                    const RoundedRows& k, const RoundedRows& v) {
    const bool int8_qk = problem.format == AttentionFormat::int8_qk;
    if (call.smooth_k) int8_qk ? subtract_int8_means(k) : subtract_means(k);
    if (int8_qk || problem.format == AttentionFormat::mix) {
        round_int8(q, call.q_tokens);
        round_int8(k, call.k_tokens);
        if (!int8_qk) round_fp8_channels(v);
    } else if (problem.format == AttentionFormat::fp8) {
        round_fp8(q, call.q_tokens);
        round_fp8(k, call.k_tokens);
        round_fp8(v, call.v_tokens, call.v_channels);
    } else {
        const MxElement element =
            problem.format == AttentionFormat::mxfp8 ? MxElement::e4m3 : MxElement::e2m1;
        round_mx(q, element, MxAxis::channels, call.mxfp4_scale);
        round_mx(k, element, MxAxis::channels, call.mxfp4_scale);
        round_mx(v, element, MxAxis::tokens, call.mxfp4_scale);
    }
}

/// Floats of the copies and of the log-sum-exp of the rows, in whole cache lines.
std::int64_t copied_floats(const AttentionProblem& part) {
    const std::int64_t rows = 2 * (part.maps() * part.q_len + part.kv_maps() * part.k_len);
    const std::int64_t lse = part.wants_lse ? part.maps() * part.q_len : 0;
    return (rows * part.head_dim + lse + 15) / 16 * 16;
}

/// The log-sum-exp of rows of some maps, to where the caller wants it; the order of the rows is that of o.
void copy_lse(const RoundedRows& o, std::int64_t first_map, const float* rows, const AttentionCall& call) {
    const std::int32_t* const* order = call.o_strides.order;
    for (std::int64_t i = 0; i < o.maps * o.tokens; ++i) {
        const std::int64_t map = first_map + i / o.tokens, row = i % o.tokens;
        call.lse[map * o.tokens + (order == nullptr ? row : order[map][row])] = rows[i];
    }
}

/// The heads of `part` that begin with map `first` of k and v.
void attend_rounded(const AttentionProblem& problem, const AttentionCall& call, const AttentionProblem& part,
                    std::int64_t first, const AttentionKernel& floats) {
    const std::int64_t d = problem.head_dim, first_q = first * problem.group();
    const RoundedRows q = {reinterpret_cast<float*>(call.workspace), part.heads, part.q_len, d};
    const RoundedRows k = {q.row(part.heads, 0), part.kv_heads, part.k_len, d};
    const RoundedRows v = {k.row(part.kv_heads, 0), part.kv_heads, part.k_len, d};
    const RoundedRows o = {v.row(part.kv_heads, 0), part.heads, part.q_len, d};
    copy_in({call.q, call.q_strides, problem.dtype, problem.heads, first_q}, q);
    copy_in({call.k, call.k_strides, problem.dtype, problem.kv_heads, first}, k);
    copy_in({call.v, call.v_strides, problem.dtype, problem.kv_heads, first}, v);
    round_operands(problem, call, q, k, v);
    AttentionCall inner;
    inner.q = q.data;
    inner.k = k.data;
    inner.v = v.data;
    inner.o = o.data;
    inner.q_strides = inner.o_strides = {0, part.q_len * d, d};
    inner.k_strides = inner.v_strides = {0, part.k_len * d, d};
    inner.scale = call.scale;
    if (problem.masked) inner.mask = call.mask.from(first_q * problem.q_blocks());
    inner.workspace = call.workspace + copied_floats(part) * static_cast<std::int64_t>(sizeof(float));
    if (part.wants_lse) inner.lse = o.row(part.heads, 0);
    floats.run(part, inner);
    if (part.wants_lse) copy_lse(o, first_q, inner.lse, call);
    copy_out(o, {nullptr, call.o_strides, problem.dtype, problem.heads, first_q}, call.o);
}

}  // namespace

void subtract_means(const RoundedRows& x) {
    for_channels(x, [&](std::int64_t map, std::int64_t first, std::int64_t last) {
        double sums[kChannels] = {};
        for (std::int64_t t = 0; t < x.tokens; ++t)
            for (std::int64_t c = first; c < last; ++c)
                sums[c - first] += static_cast<double>(x.row(map, t)[c]);
        subtract(x, {map, first, last}, sums);
    });
}

void subtract_int8_means(const RoundedRows& x) {
    for_channels(x, [&](std::int64_t map, std::int64_t first, std::int64_t last) {
        double sums[kChannels] = {}, portion[kChannels] = {};
        float few[kChannels] = {};
        for (std::int64_t t = 0; t < x.tokens; ++t) {
            const bool few_end = (t + 1) % kFloatTokens == 0 || t + 1 == x.tokens;
            const bool portion_end = (t + 1) % kMeanTokens == 0 || t + 1 == x.tokens;
            for (std::int64_t c = 0; c < last - first; ++c) {
                few[c] += x.row(map, t)[first + c];
                if (few_end) portion[c] += static_cast<double>(std::exchange(few[c], 0.0F));
                if (portion_end) sums[c] += std::exchange(portion[c], 0.0);
            }
        }
        subtract(x, {map, first, last}, sums);
    });
}

void round_fp8(const RoundedRows& x, std::int64_t block_tokens, std::int64_t block_channels) {
    round_blocks(x, {block_tokens, block_channels, kLargestFloat8},
                 [](float value) { return to_float(to_float8_e4m3(value, true)); });
}

void round_fp8(const RoundedRows& x, std::int64_t block_tokens) {
    round_fp8(x, block_tokens, x.head_dim);
}

void round_int8(const RoundedRows& x, std::int64_t block_tokens) {
    round_blocks(x, {block_tokens, x.head_dim, kLargestInt8},
                 [](float value) { return std::nearbyint(value); });
}

void round_fp8_channels(const RoundedRows& x) {
    for_channels(x, [&](std::int64_t map, std::int64_t first, std::int64_t last) {
        float scales[kChannels] = {};
        for (std::int64_t t = 0; t < x.tokens; ++t)
            for (std::int64_t c = first; c < last; ++c)
                scales[c - first] = larger_magnitude(scales[c - first], x.row(map, t)[c]);
        for (float& scale : scales) scale = scale_of(scale, kLargestFloat8);
        for (std::int64_t t = 0; t < x.tokens; ++t) {
            float* row = x.row(map, t);
            for (std::int64_t c = first; c < last; ++c)
                row[c] = to_float(to_float8_e4m3(row[c] / scales[c - first], true)) * scales[c - first];
        }
    });
}

void round_mx(const RoundedRows& x, MxElement element, MxAxis axis, const Mxfp4Scale& scale) {
    const MxBlocks blocks = {element, scale};
    for_blocks(x, kMxBlock, [&](std::int64_t map, std::int64_t first, std::int64_t last) {
        if (axis == MxAxis::channels) {
            for (std::int64_t t = first; t < last; ++t) round_channels(x.row(map, t), x.head_dim, blocks);
            return;
        }
        for (std::int64_t c = 0; c < x.head_dim; ++c) {
            float largest = 0.0F;
            for (std::int64_t t = first; t < last; ++t) largest = larger_magnitude(largest, x.row(map, t)[c]);
            const MxRounding rounding(largest, blocks);
            for (std::int64_t t = first; t < last; ++t) x.row(map, t)[c] = rounding(x.row(map, t)[c]);
        }
    });
}

std::size_t rounded_attention_workspace(const AttentionProblem& problem, const AttentionKernel& floats) {
    const AttentionProblem part = float_problem(problem, heads_at_once(problem));
    return static_cast<std::size_t>(copied_floats(part)) * sizeof(float) + floats.workspace_bytes(part);
}

void rounded_attention(const AttentionProblem& problem, const AttentionCall& call,
                       const AttentionKernel& floats) noexcept {
    const std::int64_t most = heads_at_once(problem);
    for (std::int64_t batch = 0; batch < problem.batch; ++batch) {
        for (std::int64_t head = 0; head < problem.kv_heads; head += most) {
            const AttentionProblem part = float_problem(problem, std::min(most, problem.kv_heads - head));
            attend_rounded(problem, call, part, batch * problem.kv_heads + head, floats);
        }
    }
}

}  // namespace aerogel
