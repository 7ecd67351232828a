// All tables are one piece of memory, so that one copy brings them there.
#include "ops/device_tables.h"

#include <cstring>

#include "core/device_memory.h"

namespace aerogel {
namespace {

constexpr std::size_t kAlignment = 64;

}  // namespace

DeviceTables::DeviceTables(const AttentionProblem& problem, const AttentionCall& call) {
    if (problem.masked) {
        const auto rows = static_cast<std::size_t>(problem.maps() * problem.q_blocks());
        const auto blocks = static_cast<std::size_t>(call.mask.row_start[rows]);
        row_start_ = add(call.mask.row_start, (rows + 1) * sizeof(*call.mask.row_start));
        columns_ = add(call.mask.columns, blocks * sizeof(*call.mask.columns));
    }
    q_ = add_orders(call.q_strides, problem.maps(), problem.q_len);
    k_ = add_orders(call.k_strides, problem.kv_maps(), problem.k_len);
}

std::size_t DeviceTables::add(const void* data, std::size_t bytes) {
    const std::size_t at = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
    bytes_.resize(at + bytes);
    if (bytes != 0) std::memcpy(bytes_.data() + at, data, bytes);
    return at;
}

DeviceTables::Orders DeviceTables::add_orders(const AttentionStrides& strides, std::int64_t maps,
                                              std::int64_t tokens) {
    if (strides.order == nullptr) return {};
    std::vector<std::uintptr_t> places;  // addresses, once there is one
    for (std::int64_t map = 0; map < maps; ++map) {
        const std::int32_t* order = strides.order[map];
        if (!place_of_.contains(order))
            place_of_[order] = add(order, static_cast<std::size_t>(tokens) * sizeof(*order));
        places.push_back(place_of_[order]);
    }
    const std::size_t at = add(places.data(), places.size() * sizeof(places[0]));
    for (std::size_t map = 0; map < places.size(); ++map) places_.push_back(at + map * sizeof(places[0]));
    return {at, true};
}

void DeviceTables::turn_into_addresses(const std::byte* there) {
    for (const std::size_t place : places_) {
        std::uintptr_t address = 0;
        std::memcpy(&address, bytes_.data() + place, sizeof(address));
        address += reinterpret_cast<std::uintptr_t>(there);
        std::memcpy(bytes_.data() + place, &address, sizeof(address));
    }
    places_.clear();
}

void DeviceTables::place(Device device, std::byte* there, AttentionCall& call) {
    if (bytes_.empty()) return;
    turn_into_addresses(there);
    const DeviceMemory& memory = memory_of(device);
    if (memory.send != nullptr) {
        memory.send(device, there, bytes_.data(), bytes_.size(), call.stream);
    } else {
        memory.from_host(device, there, bytes_.data(), bytes_.size());
    }
    if (call.mask.row_start != nullptr)
        call.mask = {reinterpret_cast<const std::int64_t*>(there + row_start_),
                     reinterpret_cast<const std::int32_t*>(there + columns_)};
    const auto orders_at = [&](std::size_t at) {
        return reinterpret_cast<const std::int32_t* const*>(there + at);
    };
    if (q_.given) call.q_strides.order = call.o_strides.order = orders_at(q_.at);
    if (k_.given) call.k_strides.order = call.v_strides.order = orders_at(k_.at);
}

}  // namespace aerogel
