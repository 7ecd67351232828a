// Pages are made by the first write to them: most reads find none.
#include "emulator/global_shadow.h"

#include <string>

#include "emulator/block.h"

namespace aerogel::emulator {

namespace {

[[noreturn]] void race(const Fiber& fiber, std::uint64_t other, const char* doing, Where where) {
    const bool same = other >> 32 == fiber.block->number;
    const std::string who =
        same ? name_of(*fiber.block, member_of(static_cast<Moment>(other))) : "another block";
    fail(std::string(doing) + " global memory that " + who + " wrote" +
             (same ? " without a barrier between" : " in this launch"),
         where);
}

bool in_order(const Fiber& fiber, std::uint64_t written) {
    if (written >> 32 != fiber.block->number) return false;
    const auto m = static_cast<Moment>(written);
    return member_of(m) == fiber.id || fiber.knows->clock[member_of(m)] >= clock_of(m);
}

}  // namespace

GlobalShadow::Page* GlobalShadow::find(std::uintptr_t page, bool make) {
    if (page == last_) return last_page_;
    auto at = pages_.find(page);
    if (at == pages_.end()) {
        if (!make) return nullptr;
        at = pages_.emplace(page, std::make_unique<Page>()).first;
        at->second->fill(0);
    }
    last_ = page;
    last_page_ = at->second.get();
    return last_page_;
}

void GlobalShadow::write(Fiber& fiber, const unsigned char* p, int bytes, Where where) {
    const std::uint64_t now = fiber.block->number << 32 | moment(fiber.id, fiber.clock);
    for (int i = 0; i < bytes; ++i) {
        const auto at = reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(i);
        std::uint64_t& cell = (*find(at / kPage, true))[at % kPage];
        if (cell != 0 && !in_order(fiber, cell)) race(fiber, cell, "writes", where);
        cell = now;
    }
}

void GlobalShadow::read(Fiber& fiber, const unsigned char* p, int bytes, Where where) {
    for (int i = 0; i < bytes; ++i) {
        const auto at = reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(i);
        const Page* page = find(at / kPage, false);
        if (page == nullptr) continue;
        const std::uint64_t cell = (*page)[at % kPage];
        if (cell == 0 || in_order(fiber, cell)) continue;
        if (cell >> 32 != fiber.block->number && fiber.block->has_atomics) continue;
        race(fiber, cell, "reads", where);
    }
}

}  // namespace aerogel::emulator
