// The small tables that a call of attention reads beside its arrays: the rows of a mask and the orders of
// tokens. They are made on the host; a kernel of another device reads a copy there.
#pragma once

#include <cstddef>
#include <span>
#include <unordered_map>
#include <vector>

#include "kernels/attention.h"

namespace aerogel {

class DeviceTables {
  public:
    /// Of a call whose mask and orders lie on the host.
    DeviceTables(const AttentionProblem& problem, const AttentionCall& call);

    std::size_t bytes() const { return bytes_.size(); }
    /// Copies them to bytes() bytes there, on the call's stream, and lets the call read the copy. An order is
    /// then an array there of addresses there.
    void place(Device device, std::byte* there, AttentionCall& call);

  private:
    struct Orders {
        std::size_t at = 0;  ///< of the addresses
        bool given = false;
    };

    std::size_t add(const void* data, std::size_t bytes);
    Orders add_orders(const AttentionStrides& strides, std::int64_t maps, std::int64_t tokens);
    void turn_into_addresses(const std::byte* there);

    std::vector<std::byte> bytes_;
    std::size_t row_start_ = 0, columns_ = 0;
    Orders q_, k_;
    std::unordered_map<const std::int32_t*, std::size_t> place_of_;  ///< orders that several maps have
    std::vector<std::size_t> places_;                                ///< of the addresses' places in bytes_
};

}  // namespace aerogel
