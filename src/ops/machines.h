// Which machines this build knows, and which of them runs what lies on a device.
#pragma once

#include <vector>

#include "base/function_ref.h"
#include "kernels/machine.h"

namespace aerogel {

/// Throws Unsupported when this build has no kernels for the device.
const Machine& machine_of(Device device);

/// run_operation() for kernels of the device's machine: throws DeviceError as well, where the device refuses
/// one.
void run_operation_on(Device device, FunctionRef<void()> body, int threads = 0);

/// The CPU first.
std::vector<const Machine*> machines();

/// The first device of each kind that has kernels in this build, the CPU first.
std::vector<Device> devices_of_build();

/// For tests: lets another machine answer for a kind of device as long as this lives.
class GuestMachine {
  public:
    GuestMachine(Device device, const Machine& machine);
    ~GuestMachine();
    GuestMachine(const GuestMachine&) = delete;
    GuestMachine& operator=(const GuestMachine&) = delete;
};

}  // namespace aerogel
