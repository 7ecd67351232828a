// Pages are made by the first write to them: most reads find none.
#include "emulator/global_shadow.h"

#include <algorithm>
#include <string>
#include <utility>

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

GlobalShadow::Page* GlobalShadow::find(std::uintptr_t number, bool make) {
    auto& [known, page] = found_[number % found_.size()];
    if (known == number && (page != nullptr || !make)) return page;
    auto at = pages_.find(number);
    if (at == pages_.end() && make) {
        at = pages_.emplace(number, std::make_unique<Page>()).first;
        at->second->fill(0);
    }
    known = number;
    page = at == pages_.end() ? nullptr : at->second.get();
    return page;
}

/// Calls look(cells, count) for the bytes on each page.
template <class Look>
void GlobalShadow::each_page(const unsigned char* p, int bytes, bool make, const Look& look) {
    const auto first = reinterpret_cast<std::uintptr_t>(p), end = first + static_cast<std::uintptr_t>(bytes);
    for (std::uintptr_t at = first; at < end;) {
        const std::uintptr_t count = std::min(end - at, kPage - at % kPage);
        if (Page* page = find(at / kPage, make)) look(page->data() + at % kPage, count);
        at += count;
    }
}

void GlobalShadow::write(Fiber& fiber, const unsigned char* p, int bytes, Where where) {
    const std::uint64_t now = fiber.block->number << 32 | moment(fiber.id, fiber.clock);
    each_page(p, bytes, true, [&](std::uint64_t* cells, std::uintptr_t count) {
        std::uint64_t fine = 0;  // looked at before
        for (std::uintptr_t i = 0; i < count; ++i) {
            if (cells[i] != fine && cells[i] != 0 && !in_order(fiber, cells[i]))
                race(fiber, cells[i], "writes", where);
            fine = std::exchange(cells[i], now);
        }
    });
}

void GlobalShadow::read(Fiber& fiber, const unsigned char* p, int bytes, Where where) {
    each_page(p, bytes, false, [&](const std::uint64_t* cells, std::uintptr_t count) {
        std::uint64_t fine = 0;
        for (std::uintptr_t i = 0; i < count; ++i) {
            const std::uint64_t cell = cells[i];
            if (cell == fine || cell == 0) continue;
            const bool of_another = cell >> 32 != fiber.block->number && fiber.block->has_atomics;
            if (!of_another && !in_order(fiber, cell)) race(fiber, cell, "reads", where);
            fine = cell;
        }
    });
}

}  // namespace aerogel::emulator
