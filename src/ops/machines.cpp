// The table of machines: a kind of device and the lists of its kernels.
#include "ops/machines.h"

#include "aerogel/error.h"
#include "kernels/cpu/list.h"

namespace aerogel {
namespace {

struct MachineOfDevice {
    DeviceKind kind;
    const Machine* machine;
};

// A row besides the CPU's stands under its option: #ifdef AEROGEL_NAME.
constexpr MachineOfDevice kMachines[] = {
    {DeviceKind::cpu, &cpu::kMachine},
};

MachineOfDevice guest = {DeviceKind::cpu, nullptr};  // changes while a test alone runs

}  // namespace

const Machine& machine_of(Device device) {
    if (guest.machine != nullptr && guest.kind == device.kind) return *guest.machine;
    for (const MachineOfDevice& row : kMachines)
        if (row.kind == device.kind) return *row.machine;
    throw Unsupported("[device] this build has no kernels for the device " + device.describe());
}

std::vector<const Machine*> machines() {
    std::vector<const Machine*> all;
    for (const MachineOfDevice& row : kMachines) all.push_back(row.machine);
    if (guest.machine != nullptr) all.push_back(guest.machine);
    return all;
}

GuestMachine::GuestMachine(Device device, const Machine& machine) {
    guest = {device.kind, &machine};
}

GuestMachine::~GuestMachine() {
    guest.machine = nullptr;
}

}  // namespace aerogel
