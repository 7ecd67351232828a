// The element-wise operations that are bound by memory alone: every row of the CPU has these loops.
#pragma once

#include "kernels/elementwise.h"

namespace aerogel::plain {

void combine(const CombineArgs& args) noexcept;
void copy(const CopyArgs& args) noexcept;
void match_norms(const MatchNormsArgs& args) noexcept;
bool all_finite(const FiniteArgs& args) noexcept;
void clamp(const ClampArgs& args) noexcept;

}  // namespace aerogel::plain
