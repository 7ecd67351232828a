// Sampled attention rows: scores by panels of keys, fixed orders of summation.
#include "sparse/sampled_attention.h"

#include <algorithm>
#include <limits>

#include "kernels/lane_sum.h"
#include "kernels/softmax_numerators.h"

namespace aerogel {
namespace {

constexpr std::size_t kPanel = 32;

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

}  // namespace

SampledKeys::SampledKeys(const HeadRows& k, std::int64_t map, const std::vector<std::int64_t>& tokens)
    : count_(tokens.size()),
      head_dim_(static_cast<std::size_t>(k.head_dim)),
      panels_(padded(tokens.size()) * head_dim_, 0.0F) {
    const MapRows rows = k.rows(map);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        float row[256] = {};
        k.add_row(rows.at(tokens[i]), row);
        float* out = panels_.data() + i / kPanel * kPanel * head_dim_ + i % kPanel;
        for (std::size_t d = 0; d < head_dim_; ++d) out[d * kPanel] = row[d];
    }
}

bool SampledKeys::finite() const {
    return all_finite(panels_.data(), panels_.size());
}

std::size_t SampledKeys::padded(std::size_t keys) {
    return (keys + kPanel - 1) / kPanel * kPanel;
}

float SampledKeys::softmax_weights(const float* query, float scale, std::vector<float>& weights) const {
    weights.resize(padded_count());
    score_keys(query, panels_, head_dim_, weights);
    std::fill(weights.begin() + static_cast<std::ptrdiff_t>(count_), weights.end(),
              -std::numeric_limits<float>::infinity());
    softmax_numerators(weights.data(), weights.size(), scale);
    return lane_sum(static_cast<std::int64_t>(weights.size()),
                    [&](std::int64_t i) { return weights[static_cast<std::size_t>(i)]; });
}

}  // namespace aerogel
