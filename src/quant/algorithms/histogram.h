// A histogram of activations that grows with what it sees, and two searches for the range that costs least:
// squared error and Kullback-Leibler divergence.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/algorithms/minmax.h"

namespace aerogel {

/// Equal bins over [low, high). The first values set the range; when later ones leave it, its width doubles
/// towards them and pairs of bins merge, so no count is ever spread or lost.
class ValueHistogram {
  public:
    /// bins even, at least 2; InvalidArgument otherwise.
    explicit ValueHistogram(int bins = 2048);
    /// InvalidArgument when a value is not finite; then nothing was added.
    void add(std::span<const float> values);

    double low() const { return low_; }
    double high() const { return high_; }
    double bin_width() const { return (high_ - low_) / static_cast<double>(counts_.size()); }
    const std::vector<std::int64_t>& counts() const { return counts_; }
    std::int64_t total() const { return total_; }
    /// Of the values themselves; {0, 0} before the first.
    InputRange seen() const { return seen_; }

  private:
    void cover(InputRange range);

    double low_ = 0.0;
    double high_ = 0.0;
    std::int64_t total_ = 0;
    InputRange seen_;
    std::vector<std::int64_t> counts_;
};

/// The range found by moving either end inwards, 1e-5 of the mass at a time, until the expected squared error
/// of `levels` uniform levels grows: the search of PyTorch's HistogramObserver (after Caffe2's
/// norm_minimization.cc), which msModelSlim's "histogram" uses. InvalidArgument when the histogram is empty;
/// likewise below.
InputRange mse_range(const ValueHistogram& histogram, int levels = 256);

/// The threshold T on |x| whose clipped distribution loses least information in `levels` levels (Migacz,
/// "8-bit Inference with TensorRT", GTC 2017); the range is what was seen, clipped to -T .. T.
InputRange kl_range(const ValueHistogram& histogram, int levels = 128);

}  // namespace aerogel
