// Ranges of activations from their values: extremes, mean of extremes, percentiles. Each gives the InputRange
// that asymmetric_int8() turns into a scale and an offset; histogram.h has the ranges searched by error.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/algorithms/minmax.h"

namespace aerogel {

/// Smallest and largest value over all forwards ("max" of msModelSlim's V1 minmax).
/// InvalidArgument when `forwards` is empty; likewise below.
InputRange extreme_range(std::span<const InputRange> forwards);

/// Mean of the minima and mean of the maxima (V0's minmax); in double precision.
InputRange mean_range(std::span<const InputRange> forwards);

/// Range of one forward. InvalidArgument when there are no values or one is not finite.
InputRange range_of(std::span<const float> values);

/// The value below which `percentile` % (0 .. 100) of the values lie, linear between neighbours (as NumPy's
/// default). Takes the values by copy, as it sorts part of them. InvalidArgument when there are none.
double percentile_of(std::vector<float> values, double percentile);

/// From the (100 - percentile)th to the percentile-th percentile, percentile in (50, 100].
InputRange percentile_range(std::span<const float> values, double percentile);

}  // namespace aerogel
