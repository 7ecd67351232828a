// The growing histogram.
#include "quant/algorithms/histogram.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aerogel/error.h"
#include "quant/algorithms/ranges.h"

namespace aerogel {

ValueHistogram::ValueHistogram(int bins) {
    if (bins < 2 || bins % 2 != 0) {
        throw InvalidArgument(fmt::format("[histogram] bins must be even and at least 2, got {}", bins));
    }
    counts_.resize(static_cast<std::size_t>(bins));
}

// Equal values would make a range without width; a thousandth of their size stands in.
void ValueHistogram::cover(InputRange range) {
    const auto min = static_cast<double>(range.min), max = static_cast<double>(range.max);
    if (total_ == 0) {
        low_ = min;
        high_ = max > min ? max : min + std::max(std::fabs(min) * 0x1p-10, 0x1p-100);
        seen_ = range;
        return;
    }
    const std::size_t half = counts_.size() / 2;
    while (min < low_ || max > high_) {
        std::vector<std::int64_t> merged(counts_.size());
        const bool down = min < low_;
        for (std::size_t i = 0; i < half; ++i) {
            merged[down ? half + i : i] = counts_[2 * i] + counts_[2 * i + 1];
        }
        const double width = high_ - low_;
        (down ? low_ : high_) += down ? -width : width;
        counts_ = std::move(merged);
    }
    seen_ = {std::min(seen_.min, range.min), std::max(seen_.max, range.max)};
}

void ValueHistogram::add(std::span<const float> values) {
    if (values.empty()) return;
    cover(range_of(values));
    const auto bins = static_cast<double>(counts_.size());
    for (const float value : values) {
        const double position = (static_cast<double>(value) - low_) / (high_ - low_) * bins;
        const auto bin = static_cast<std::size_t>(std::clamp(position, 0.0, bins - 1.0));
        ++counts_[bin];
    }
    total_ += static_cast<std::int64_t>(values.size());
}

}  // namespace aerogel
