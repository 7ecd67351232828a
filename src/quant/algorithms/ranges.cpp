// Ranges from values.
#include "quant/algorithms/ranges.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aerogel/error.h"

namespace aerogel {
namespace {

void check_not_empty(bool empty, const char* what) {
    if (empty) throw InvalidArgument(fmt::format("[range] there are no {}", what));
}

}  // namespace

InputRange range_of(std::span<const float> values) {
    check_not_empty(values.empty(), "values");
    InputRange result{values.front(), values.front()};
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i])) {
            throw InvalidArgument(fmt::format("[range] value {} of {} is not finite", i, values.size()));
        }
        result = {std::min(result.min, values[i]), std::max(result.max, values[i])};
    }
    return result;
}

double percentile_of(std::vector<float> values, double percentile) {
    check_not_empty(values.empty(), "values");
    if (!(percentile >= 0.0 && percentile <= 100.0)) {
        throw InvalidArgument(fmt::format("[range] the percentile must be in [0, 100], got {}", percentile));
    }
    const double position = static_cast<double>(values.size() - 1) * percentile / 100.0;
    const auto below = static_cast<std::ptrdiff_t>(position);
    std::nth_element(values.begin(), values.begin() + below, values.end());
    const auto low = static_cast<double>(values[static_cast<std::size_t>(below)]);
    const double fraction = position - static_cast<double>(below);
    if (fraction == 0.0) return low;
    const auto high = static_cast<double>(*std::min_element(values.begin() + below + 1, values.end()));
    return low + (high - low) * fraction;
}

}  // namespace aerogel
