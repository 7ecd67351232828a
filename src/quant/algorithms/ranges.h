// What values span: their extremes, as the InputRange that asymmetric_int8() turns into a scale and an
// offset, and their percentiles.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/algorithms/minmax.h"

namespace aerogel {

/// Range of one forward. InvalidArgument when there are no values or one is not finite.
InputRange range_of(std::span<const float> values);

/// The value below which `percentile` % (0 .. 100) of the values lie, linear between neighbours (as NumPy's
/// default). Takes the values by copy, as it sorts part of them. InvalidArgument when there are none.
double percentile_of(std::vector<float> values, double percentile);

}  // namespace aerogel
