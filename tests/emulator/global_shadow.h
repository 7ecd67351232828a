// Races in global memory: bytes that one thread writes and another touches in the same launch, without a
// barrier of their block between, or from another block. Blocks that use atomic operations on global memory
// may read what others wrote.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>

#include "emulator/lane.h"

namespace aerogel::emulator {

struct Fiber;

/// Who wrote each byte last, by pages; of one launch.
class GlobalShadow {
  public:
    void write(Fiber& fiber, const unsigned char* p, int bytes, Where where);
    void read(Fiber& fiber, const unsigned char* p, int bytes, Where where);

  private:
    static constexpr std::uintptr_t kPage = 4096;
    /// Number of the block in its launch, from 1, in the high half; the thread's moment in the low one.
    using Page = std::array<std::uint64_t, kPage>;
    /// Null where there is none and none is to be made.
    Page* find(std::uintptr_t number, bool make);
    template <class Look>
    void each_page(const unsigned char* p, int bytes, bool make, const Look& look);

    std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages_;
    /// Those looked for last, by their numbers (0 is no page of a process).
    std::array<std::pair<std::uintptr_t, Page*>, 64> found_{};
};

}  // namespace aerogel::emulator
