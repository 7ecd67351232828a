// Who knows what of whom inside a block: vector clocks (Lamport; FastTrack, Flanagan and Freund 2009). A
// thread's own clock counts its releases; what it knows of the others is an array shared with all who learned
// the same.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace aerogel::emulator {

/// The clocks of all threads and engines of a block, as known at one moment. Counted by those who point to
/// it.
struct Knowledge {
    int users = 0;
    std::vector<std::uint32_t> clock;
};

/// Lends Knowledge and takes it back.
class KnowledgePool {
  public:
    explicit KnowledgePool(std::size_t members) : members_(members) {}
    ~KnowledgePool() {
        for (Knowledge* k : all_) delete k;
    }
    KnowledgePool(const KnowledgePool&) = delete;
    KnowledgePool& operator=(const KnowledgePool&) = delete;

    Knowledge* blank() {
        Knowledge* k = take();
        std::fill(k->clock.begin(), k->clock.end(), 0U);
        return k;
    }
    Knowledge* copy(const Knowledge* from) {
        Knowledge* k = take();
        std::copy(from->clock.begin(), from->clock.end(), k->clock.begin());
        return k;
    }
    void drop(Knowledge* k) {
        if (k != nullptr && --k->users == 0) free_.push_back(k);
    }
    /// to = from, with the counts.
    void assign(Knowledge*& to, Knowledge* from) {
        if (to == from) return;
        ++from->users;
        drop(to);
        to = from;
    }

  private:
    Knowledge* take() {
        if (free_.empty()) {
            all_.push_back(new Knowledge);
            all_.back()->clock.resize(members_);
            free_.push_back(all_.back());
        }
        Knowledge* k = free_.back();
        free_.pop_back();
        k->users = 1;
        return k;
    }
    std::size_t members_;
    std::vector<Knowledge*> all_, free_;
};

inline void join(Knowledge& into, const Knowledge& from) {
    for (std::size_t i = 0; i < into.clock.size(); ++i)
        into.clock[i] = std::max(into.clock[i], from.clock[i]);
}

/// A moment of a thread or engine in 31 bits; 0 is none. The highest bit marks bytes that an asynchronous
/// copy may be writing, or an asynchronous product reading, at this moment.
using Moment = std::uint32_t;
constexpr int kClockBits = 20;
constexpr Moment kInFlight = Moment{1} << 31;
constexpr std::uint32_t kMaxMembers = 1U << (31 - kClockBits);
constexpr Moment moment(unsigned member, std::uint32_t clock) {
    return static_cast<Moment>(member << kClockBits) | clock;
}
constexpr unsigned member_of(Moment m) {
    return (m & ~kInFlight) >> kClockBits;
}
constexpr std::uint32_t clock_of(Moment m) {
    return m & ((1U << kClockBits) - 1);
}

}  // namespace aerogel::emulator
