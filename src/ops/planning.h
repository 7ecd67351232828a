// The planning kernels of a device (kernels/planning.h). Whoever calls them does so inside of
// run_operation_on().
#pragma once

#include "kernels/planning.h"

namespace aerogel {

/// Whether sparse plans can be made where this device has its memory.
bool has_planning(Device device);
/// Unsupported where the device's machine has none.
const PlanningKernels& planning_kernels(Device device);

}  // namespace aerogel
