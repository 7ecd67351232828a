// Scratch memory of planning, for some maps of k and the maps of q that meet them at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ops/workspace.h"

namespace aerogel {

/// Maps at a time, at least one, that take so many bytes each.
inline std::int64_t maps_at_once(std::int64_t maps, std::size_t bytes_of_map) {
    constexpr std::size_t kMost = std::size_t{64} << 20;
    return std::clamp<std::int64_t>(static_cast<std::int64_t>(kMost / bytes_of_map), 1, maps);
}

/// So many bytes, given out piece by piece.
class PlanScratch {
  public:
    PlanScratch(std::size_t bytes, Device device) : memory_(bytes, device), next_(memory_.data()) {}

    template <typename T>
    T* take(std::int64_t count) {
        T* const taken = reinterpret_cast<T*>(next_);
        next_ += static_cast<std::size_t>(count) * sizeof(T);
        return taken;
    }
    void align(std::size_t to) {
        const auto past = static_cast<std::size_t>(next_ - memory_.data()) % to;
        if (past != 0) next_ += to - past;
    }
    void reuse() { next_ = memory_.data(); }

  private:
    Workspace memory_;
    std::byte* next_;
};

}  // namespace aerogel
