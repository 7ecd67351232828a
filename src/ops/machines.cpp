// The table of machines: a kind of device and the lists of its kernels.
#include "ops/machines.h"

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "kernels/cpu/list.h"
#ifdef AEROGEL_CUDA
#include "kernels/cuda/list.h"
#endif

namespace aerogel {
namespace {

struct MachineOfDevice {
    DeviceKind kind;
    const Machine* machine;
};

// A row besides the CPU's stands under its option: #ifdef AEROGEL_NAME.
constexpr MachineOfDevice kMachines[] = {
    {DeviceKind::cpu, &cpu::kMachine},
#ifdef AEROGEL_CUDA
    {DeviceKind::cuda, &cuda::kMachine},
#endif
};

MachineOfDevice guest = {DeviceKind::cpu, nullptr};  // changes while a test alone runs

}  // namespace

const Machine& machine_of(Device device) {
    if (guest.machine != nullptr && guest.kind == device.kind) return *guest.machine;
    for (const MachineOfDevice& row : kMachines)
        if (row.kind == device.kind) return *row.machine;
    throw Unsupported("[device] this build has no kernels for the device " + device.describe());
}

void run_operation_on(Device device, FunctionRef<void()> body, int threads) {
    const Machine& machine = machine_of(device);
    if (machine.run == nullptr) return run_operation(body, threads);
    machine.run(device, [&] { run_operation(body, threads); });
}

std::vector<const Machine*> machines() {
    std::vector<const Machine*> all;
    for (const MachineOfDevice& row : kMachines) all.push_back(row.machine);
    if (guest.machine != nullptr) all.push_back(guest.machine);
    return all;
}

std::vector<Device> devices_of_build() {
    std::vector<Device> devices;
    for (const MachineOfDevice& row : kMachines) devices.push_back({row.kind, 0});
    return devices;
}

GuestMachine::GuestMachine(Device device, const Machine& machine) {
    guest = {device.kind, &machine};
}

GuestMachine::~GuestMachine() {
    guest.machine = nullptr;
}

}  // namespace aerogel
