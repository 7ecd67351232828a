// How one sparse call is planned: stay dense, or a pattern per head and the blocks that it, the content or a
// given mask keeps. The steps are kernels of the device that has q and k.
#pragma once

#include "aerogel/sparse_attention.h"
#include "sparse/check.h"

namespace aerogel {

/// The device that plans: that of q and k where its kernels decide anything of it, else the CPU. A plan that
/// is made there needs q and k there.
Device planning_device(const SparseProblem& problem);
/// Whether q and k are looked at.
bool looks_at_content(const SparseProblem& problem);

SparsePlan make_plan(const SparseProblem& problem, const SparseSides& sides, Device device);

}  // namespace aerogel
