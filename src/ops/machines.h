// Which machines this build knows, and which of them runs what lies on a device.
#pragma once

#include <vector>

#include "kernels/machine.h"

namespace aerogel {

/// Throws Unsupported when this build has no kernels for the device.
const Machine& machine_of(Device device);

/// The CPU first.
std::vector<const Machine*> machines();

/// For tests: lets another machine answer for a kind of device as long as this lives.
class GuestMachine {
  public:
    GuestMachine(Device device, const Machine& machine);
    ~GuestMachine();
    GuestMachine(const GuestMachine&) = delete;
    GuestMachine& operator=(const GuestMachine&) = delete;
};

}  // namespace aerogel
