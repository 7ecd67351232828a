// Chooses the planning kernels of a device.
#include "ops/planning.h"

#include "ops/dispatch.h"

namespace aerogel {

bool has_planning(Device device) {
    return !machine_of(device).planning.empty();
}

const PlanningKernels& planning_kernels(Device device) {
    return choose("plan_sparse", device, &Machine::planning, FloatRows{});
}

}  // namespace aerogel
