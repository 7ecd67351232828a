// The end of a prediction that met NaN or infinity.
#pragma once

#include "sparse/head_rows.h"

namespace aerogel {

/// Throws: no mask can be predicted; names the first value of q or k that is not finite.
[[noreturn]] void fail_not_finite(const HeadRows& q, const HeadRows& k);

}  // namespace aerogel
