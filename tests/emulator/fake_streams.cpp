// The order of work on streams.
#include "emulator/fake_streams.h"

namespace aerogel::emulator {

std::uint64_t FakeStreams::next_random() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
}

FakeStream* FakeStreams::find(void* handle) {
    // 0: the null stream; 1 and 2 are its names in the manual, legacy and per thread.
    if (reinterpret_cast<std::uintptr_t>(handle) <= 2) return &null_;
    const auto at = streams_.find(handle);
    return at == streams_.end() ? nullptr : at->second.get();
}

void* FakeStreams::create(bool blocking) {
    auto stream = std::make_unique<FakeStream>();
    stream->blocking = blocking;
    void* handle = stream.get();
    streams_[handle] = std::move(stream);
    return handle;
}

bool FakeStreams::destroy(void* handle) {
    const auto at = streams_.find(handle);
    if (at == streams_.end()) return false;
    finish(*at->second);
    streams_.erase(at);
    return true;
}

int FakeStreams::put(FakeStream& stream, Work work) {
    if (stream.capture != nullptr) {
        stream.capture->work.push_back(std::move(work));
    } else {
        stream.items.push_back({++numbers_, std::move(work)});
    }
    return 0;
}

int FakeStreams::record(FakeStream& stream, FakeEvent& event) {
    const std::uint64_t record = ++event.recorded;
    return put(stream, [&event, record] {
        event.done = record;
        return 0;
    });
}

int FakeStreams::wait_for(FakeStream& stream, FakeEvent& event) {
    if (stream.capture == nullptr)
        stream.items.push_back({++numbers_, [] { return 0; }, &event, event.recorded});
    return 0;
}

/// Everything of the stream that was put before that number.
int FakeStreams::catch_up(FakeStream& stream, std::uint64_t number) {
    while (!stream.items.empty() && !stream.held && stream.items.front().number < number) {
        if (const int result = step(stream); result != 0) return result;
    }
    return 0;
}

int FakeStreams::step(FakeStream& stream) {
    const std::uint64_t number = stream.items.front().number;
    if (&stream == &null_) {
        for (auto& [handle, other] : streams_) {
            if (!other->blocking) continue;
            if (const int result = catch_up(*other, number); result != 0) return result;
        }
    } else if (stream.blocking) {
        if (const int result = catch_up(null_, number); result != 0) return result;
    }
    if (stream.items.empty() || stream.items.front().number != number) return 0;
    FakeStream::Item item = std::move(stream.items.front());
    stream.items.pop_front();
    while (item.waits_for != nullptr && item.waits_for->done < item.record) {
        stream.held = true;
        const int result = advance();
        stream.held = false;
        if (result != 0) return result;
    }
    return item.work();
}

int FakeStreams::advance() {
    std::vector<FakeStream*> ready;
    if (!null_.items.empty() && !null_.held) ready.push_back(&null_);
    for (auto& [handle, stream] : streams_) {
        if (!stream->items.empty() && !stream->held) ready.push_back(stream.get());
    }
    return ready.empty() ? 0 : step(*ready[next_random() % ready.size()]);
}

int FakeStreams::finish(FakeStream& stream) {
    while (!stream.items.empty()) {
        // Others may come before it, and sometimes do.
        const int result = next_random() % 4 == 0 ? advance() : step(stream);
        if (result != 0) return result;
    }
    return 0;
}

int FakeStreams::finish_all() {
    for (;;) {
        bool any = !null_.items.empty();
        for (auto& [handle, stream] : streams_) any |= !stream->items.empty();
        if (!any) return 0;
        if (const int result = advance(); result != 0) return result;
    }
}

int FakeStreams::finish(const FakeEvent& event) {
    while (event.done < event.recorded) {
        if (const int result = advance(); result != 0) return result;
    }
    return 0;
}

bool FakeStreams::capturing() const {
    bool any = null_.capture != nullptr;
    for (const auto& [handle, stream] : streams_) any |= stream->capture != nullptr;
    return any;
}

}  // namespace aerogel::emulator
