// Sampled attention rows: scores by panels of keys, a softmax without its division, fixed orders of
// summation.
#include "sparse/sampled_attention.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace aerogel {
namespace {

constexpr std::size_t kPanel = 32;

// e^x for x in [-87, -0] to about 1e-6 relative; everything else, +0 and NaN included, counts as -87.
// Clamped by its bits (those of negative numbers grow with their size), because a comparison of floats
// would keep the compiler from vectorising.
inline float exp_negative(float x) {
    const float clamped =
        std::bit_cast<float>(std::min(std::bit_cast<std::int32_t>(x), std::bit_cast<std::int32_t>(-87.0F)));
    const float shifted = clamped * 1.44269504F + 12582912.0F;  // 1.5 * 2^23: rounds to an integer
    const float power = shifted - 12582912.0F;
    const float rest = clamped - power * 0.693359375F + power * 2.12194440e-4F;
    float series = 1.3888889e-3F;
    series = series * rest + 8.3333333e-3F;
    series = series * rest + 4.1666667e-2F;
    series = series * rest + 1.6666667e-1F;
    series = series * rest + 0.5F;
    series = series * rest + 1.0F;
    series = series * rest + 1.0F;
    const auto exponent = (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(12582912.0F))
                          << 23;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(series) + exponent);
}

// scores[key] = sum over d of query[d] * key[d], for whole panels.
void score_keys(const float* query, const std::vector<float>& panels, std::size_t dim,
                std::vector<float>& scores) {
    const float* key = panels.data();
    for (std::size_t begin = 0; begin < scores.size(); begin += kPanel) {
        float sums[kPanel] = {};
        for (std::size_t d = 0; d < dim; ++d, key += kPanel) {
            for (std::size_t i = 0; i < kPanel; ++i) sums[i] += query[d] * key[i];
        }
        std::copy_n(sums, kPanel, scores.data() + begin);
    }
}

// Sums over whole panels in a fixed number of lanes, so that they vectorise and their order is fixed.
template <typename Term>
float lane_sum(std::size_t count, const Term& term) {
    constexpr std::size_t kLanes = 16;
    float lanes[kLanes] = {};
    for (std::size_t i = 0; i < count; i += kLanes) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
    }
    float sum = 0.0F;
    for (const float lane : lanes) sum += lane;
    return sum;
}
// The largest value, NaNs aside.
float largest(const float* values, std::size_t count) {
    float lanes[8];
    std::fill_n(lanes, 8, -std::numeric_limits<float>::infinity());
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (std::size_t lane = 0; lane < 8; ++lane)
            lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
    for (; i < count; ++i) lanes[0] = std::max(lanes[0], values[i]);
    return *std::max_element(lanes, lanes + 8);
}

}  // namespace

SampledKeys::SampledKeys(const HeadRows& k, std::int64_t map, const std::vector<std::int64_t>& tokens)
    : count_(tokens.size()),
      head_dim_(static_cast<std::size_t>(k.head_dim)),
      panels_(padded(tokens.size()) * head_dim_, 0.0F) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        float row[256] = {};
        k.add_row(map, tokens[i], row);
        float* out = panels_.data() + i / kPanel * kPanel * head_dim_ + i % kPanel;
        for (std::size_t d = 0; d < head_dim_; ++d) out[d * kPanel] = row[d];
    }
}

bool SampledKeys::finite() const {
    return lane_sum(panels_.size(), [&](std::size_t i) { return panels_[i] * 0.0F; }) == 0.0F;
}

std::size_t SampledKeys::padded(std::size_t keys) {
    return (keys + kPanel - 1) / kPanel * kPanel;
}

float SampledKeys::softmax_weights(const float* query, float scale, std::vector<float>& weights) const {
    weights.resize(padded_count());
    score_keys(query, panels_, head_dim_, weights);
    std::fill(weights.begin() + static_cast<std::ptrdiff_t>(count_), weights.end(),
              -std::numeric_limits<float>::infinity());
    const float highest = largest(weights.data(), count_);
    for (float& weight : weights) weight = exp_negative((highest - weight) * -scale);
    return lane_sum(weights.size(), [&](std::size_t i) { return weights[i]; });
}

float sampled_dot(const float* a, const float* b, std::size_t count) {
    return lane_sum(count, [=](std::size_t i) { return a[i] * b[i]; });
}

}  // namespace aerogel
