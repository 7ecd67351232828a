// Streams of the fake GPU: work is queued and done when somebody waits for it, so a host that forgets to wait
// sees NaN. Streams advance in an order drawn by a seed, held back only by events and by the null stream, as
// the manual has it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

namespace aerogel::emulator {

using Work = std::function<int()>;  ///< a result of the driver, 0 for success

struct FakeEvent {
    std::uint64_t recorded = 0;  ///< number of the last record, 0: none
    std::uint64_t done = 0;      ///< of the last one that happened
};

struct FakeGraph {
    std::vector<Work> work;
};

struct FakeStream {
    struct Item {
        std::uint64_t number;
        Work work;
        FakeEvent* waits_for = nullptr;  ///< and for which of its records
        std::uint64_t record = 0;
    };
    std::deque<Item> items;
    bool blocking = true;  ///< waits for the null stream and the other way round
    bool held = false;     ///< its first item waits for an event
    std::unique_ptr<FakeGraph> capture;
};

class FakeStreams {
  public:
    explicit FakeStreams(std::uint64_t seed) : random_(seed) {}

    /// null for a stream that is none.
    FakeStream* find(void* handle);
    void* create(bool blocking);
    bool destroy(void* handle);

    int put(FakeStream& stream, Work work);
    int record(FakeStream& stream, FakeEvent& event);
    int wait_for(FakeStream& stream, FakeEvent& event);
    /// Until the stream is empty, all are, the event has happened.
    int finish(FakeStream& stream);
    int finish_all();
    int finish(const FakeEvent& event);
    /// One item somewhere.
    int advance();
    bool capturing() const;

  private:
    int step(FakeStream& stream);
    int catch_up(FakeStream& stream, std::uint64_t number);
    std::uint64_t next_random();

    std::uint64_t random_, numbers_ = 0;
    FakeStream null_;
    std::map<void*, std::unique_ptr<FakeStream>> streams_;
};

}  // namespace aerogel::emulator
