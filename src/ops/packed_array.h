// The packed form of a weight: made on the host, read by a kernel on its device, and between calls perhaps
// waiting in host memory.
#pragma once

#include <cstddef>

#include "aerogel/linear.h"
#include "aerogel/tensor.h"

namespace aerogel {

class PackedArray {
  public:
    PackedArray() = default;
    /// `packed`, on the host, becomes an array of the device.
    PackedArray(const Tensor& packed, Device device);

    Device device() const { return device_; }
    std::size_t bytes() const { return bytes_; }
    /// On the device. InvalidArgument while it waits in host memory.
    const std::byte* data() const;
    /// As Linear::move_weight(). The host's copy is made the first time and kept from then on: weights do not
    /// change.
    void move(WeightPlace place);

  private:
    Device device_;
    std::size_t bytes_ = 0;
    Tensor there_;    ///< on the device; undefined while it waits
    Tensor waiting_;  ///< in host memory
};

/// The same of a small array, a bias or scales.
inline void move_array(Tensor& array, WeightPlace place, Device device) {
    if (array.defined()) array = array.to(place == WeightPlace::host ? Device::cpu : device);
}

}  // namespace aerogel
