// A small sample of one head's attention map: some queries against some keys, in float32 with plain loops
// that every x86-64 vectorises. Recognition and mining look at heads through it.
#pragma once

#include <cstdint>
#include <vector>

#include "sparse/head_rows.h"

namespace aerogel {

/// Sampled keys of one head, laid out so that a query meets 32 of them at once.
class SampledKeys {
  public:
    /// `tokens`: places in the call's sequence.
    SampledKeys(const HeadRows& k, std::int64_t map, const std::vector<std::int64_t>& tokens);

    /// Keys are scored in whole panels; the last one is filled up with keys of weight 0.
    static std::size_t padded(std::size_t keys);
    std::size_t padded_count() const { return padded(count_); }
    /// Whether no key holds NaN or infinity.
    bool finite() const;

    /// weights[key] = exp(scale * (q k - the largest q k)), padded_count() of them; returns their sum.
    /// `query` is [head_dim], `scale` > 0.
    float softmax_weights(const float* query, float scale, std::vector<float>& weights) const;

  private:
    std::size_t count_;
    std::size_t head_dim_;
    std::vector<float> panels_;  ///< [panel, head_dim, keys of a panel]
};

}  // namespace aerogel
