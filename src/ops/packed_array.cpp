// Packed weights move between the memory of a device and that of the host.
#include "ops/packed_array.h"

#include "aerogel/error.h"

namespace aerogel {

PackedArray::PackedArray(const Tensor& packed, Device device)
    : device_(device), bytes_(packed.bytes()), there_(packed.to(device)) {}

const std::byte* PackedArray::data() const {
    if (!there_.defined()) {
        throw InvalidArgument("[linear] the weight waits in host memory: it must be moved to " +
                              device_.describe() + " first");
    }
    return static_cast<const std::byte*>(there_.data());
}

void PackedArray::move(WeightPlace place) {
    if (device_ == Device::cpu || bytes_ == 0) return;
    if (place == WeightPlace::device) {
        if (!there_.defined()) there_ = waiting_.to(device_);
        return;
    }
    if (!waiting_.defined()) waiting_ = there_.to(Device::cpu);
    there_ = Tensor();
}

}  // namespace aerogel
