// A cache of the driver's memory, one per device: blocks by size, each with the events that must have
// happened before it may be lent again.
#include "core/cuda_memory.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/environment.h"
#include "base/fork.h"
#include "core/cuda_driver.h"

namespace aerogel::cuda {
namespace {

constexpr std::size_t kSmallStep = 512, kLargeStep = std::size_t{2} << 20, kLarge = std::size_t{1} << 20;
constexpr std::size_t kMostWaste = 4;  // a block of four times the size is lent at the most
constexpr unsigned kNoTiming = 2;      // CU_EVENT_DISABLE_TIMING

// Every array is one of the driver's: for tools that look for accesses outside of arrays.
bool keeps() {
    static const bool pool = environment_choice("AEROGEL_CUDA_MEMORY", {"kept", "exact"}) != "exact";
    return pool;
}

std::size_t rounded(std::size_t bytes) {
    if (!keeps()) return std::max(bytes, std::size_t{1});
    const std::size_t step = bytes < kLarge ? kSmallStep : kLargeStep;
    return (std::max(bytes, std::size_t{1}) + step - 1) / step * step;
}

struct Block {
    Address address = 0;
    std::vector<Event> before = {};  // of streams that may be using it
};

struct Cache {
    std::mutex guard;
    std::multimap<std::size_t, Block> kept;
    std::unordered_map<Address, std::size_t> sizes;  // of all blocks
    std::vector<void*> streams;                      // that have been used
};

// As long as it lives, the thread may ask the driver for memory although a stream is captured: memory is no
// part of the graph.
class Uncaptured {
  public:
    Uncaptured() { driver().exchange_capture_mode(&mode_); }
    ~Uncaptured() { driver().exchange_capture_mode(&mode_); }
    Uncaptured(const Uncaptured&) = delete;
    Uncaptured& operator=(const Uncaptured&) = delete;

  private:
    int mode_ = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED
};

// Whether a stream of the device is being captured. The default stream cannot be.
bool is_captured(const Cache& cache) {
    return std::any_of(cache.streams.begin(), cache.streams.end(), [](void* stream) {
        int status = 0;
        return stream != nullptr &&
               driver().stream_capture(static_cast<Stream>(stream), &status) == kSuccess && status != 0;
    });
}

struct Caches {
    std::mutex guard;
    std::map<int, Cache> of_device;

    Cache& at(int device) {
        const std::lock_guard lock(guard);
        return of_device[device];
    }
};
PerProcess<Caches> caches;

MemoryLender lender = {};  // set once, before there are arrays

Cache& cache_of(int device) {
    return caches.get().at(device);
}

void forget_events(Block& block) {
    for (const Event event : block.before) driver().destroy_event(event);
    block.before.clear();
}

// An event that the driver says nothing of, as one recorded while its stream was captured, may be to come.
bool is_free(Block& block) {
    while (!block.before.empty()) {
        if (driver().query_event(block.before.back()) != kSuccess) return false;
        driver().destroy_event(block.before.back());
        block.before.pop_back();
    }
    return true;
}

// The smallest that fits, 0 for none. Events are not asked while a stream is captured.
Address kept_block(Cache& cache, std::size_t size) {
    const bool captured = is_captured(cache);
    for (auto at = cache.kept.lower_bound(size); at != cache.kept.end() && at->first / kMostWaste <= size;
         ++at) {
        if (captured ? !at->second.before.empty() : !is_free(at->second)) continue;
        const Address address = at->second.address;
        cache.kept.erase(at);
        return address;
    }
    return 0;
}

void release(Cache& cache) {
    if (cache.kept.empty()) return;
    check(driver().synchronize(), "cuCtxSynchronize");
    for (auto& [size, block] : cache.kept) {
        forget_events(block);
        cache.sizes.erase(block.address);
        driver().free(block.address);
    }
    cache.kept.clear();
}

void* allocate(Device device, std::size_t bytes) {
    if (lender.lend != nullptr) return lender.lend(device.index, bytes);
    const CurrentDevice current(device.index);
    const std::size_t size = rounded(bytes);
    Cache& cache = cache_of(device.index);
    const std::lock_guard lock(cache.guard);
    Address address = kept_block(cache, size);
    if (address == 0) {
        const Uncaptured memory_alone;
        Result result = driver().allocate(&address, size);
        if (result == kOutOfMemory) {
            release(cache);
            result = driver().allocate(&address, size);
        }
        if (result == kOutOfMemory) return nullptr;
        check(result, "cuMemAlloc");
        cache.sizes[address] = size;
    }
    return reinterpret_cast<void*>(address);
}

bool add_event(Block& block, void* stream) {
    Event event = nullptr;
    if (driver().create_event(&event, kNoTiming) != kSuccess) return false;
    if (driver().record_event(event, static_cast<Stream>(stream)) == kSuccess) {
        block.before.push_back(event);
        return true;
    }
    driver().destroy_event(event);
    return false;
}

// Where the device knows one stream only, what comes later runs behind what uses the block now. A stream that
// takes no event has ended, and is forgotten. False where nothing says when the block is free.
bool wait_for_streams(Cache& cache, Block& block) {
    if (cache.streams.size() < 2) return true;
    if (std::erase_if(cache.streams, [&](void* stream) { return !add_event(block, stream); }) == 0)
        return true;
    forget_events(block);
    return driver().synchronize() == kSuccess;
}

void give_back(Cache& cache, const Block& block) {
    driver().synchronize();
    cache.sizes.erase(block.address);
    driver().free(block.address);
}

bool is_lent(Device device, const void* data) noexcept {
    if (lender.lend == nullptr) return false;
    Cache& cache = cache_of(device.index);
    const std::lock_guard lock(cache.guard);
    return !cache.sizes.contains(reinterpret_cast<Address>(data));
}

void free_block(Device device, void* data, std::size_t) noexcept {
    if (data == nullptr) return;
    if (is_lent(device, data)) return lender.take_back(data);
    try {
        const CurrentDevice current(device.index);
        Cache& cache = cache_of(device.index);
        const std::lock_guard lock(cache.guard);
        Block block{reinterpret_cast<Address>(data)};
        if (is_captured(cache)) return;  // the graph uses it whenever it runs
        if (keeps() && wait_for_streams(cache, block)) {
            cache.kept.emplace(cache.sizes.at(block.address), std::move(block));
        } else {
            give_back(cache, block);
        }
    } catch (...) {  // a device that failed, or a forked child: nothing is left to give back
    }
}

Address address_of(const void* data) {
    return reinterpret_cast<Address>(data);
}

// All streams, because nobody says on which one the array is made or used.
void wait_for_device() {
    check(driver().synchronize(), "cuCtxSynchronize");
}

void from_host(Device device, void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    const CurrentDevice current(device.index);
    wait_for_device();
    check(driver().from_host(address_of(to), from, bytes, nullptr), "cuMemcpyHtoD");
    check(driver().synchronize_stream(nullptr), "cuMemcpyHtoD");
}

// From memory that is not pinned: the driver has read it all when it returns.
void send(Device device, void* to, const void* from, std::size_t bytes, void* stream) {
    if (bytes == 0) return;
    const CurrentDevice current(device.index);
    note_stream(device.index, stream);
    check(driver().from_host(address_of(to), from, bytes, static_cast<Stream>(stream)), "cuMemcpyHtoDAsync");
}

void to_host(Device device, void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    const CurrentDevice current(device.index);
    wait_for_device();
    check(driver().to_host(to, address_of(from), bytes, nullptr), "cuMemcpyDtoH");
    check(driver().synchronize_stream(nullptr), "cuMemcpyDtoH");
}

void copy(Device device, void* to, const void* from, std::size_t bytes) {
    if (bytes == 0) return;
    const CurrentDevice current(device.index);
    wait_for_device();
    check(driver().copy(address_of(to), address_of(from), bytes, nullptr), "cuMemcpyDtoD");
    check(driver().synchronize_stream(nullptr), "cuMemcpyDtoD");
}

void clear(Device device, void* data, std::size_t bytes) {
    if (bytes == 0) return;
    const CurrentDevice current(device.index);
    wait_for_device();
    check(driver().fill_bytes(address_of(data), 0, bytes, nullptr), "cuMemsetD8");
    check(driver().synchronize_stream(nullptr), "cuMemsetD8");
}

// What is kept goes where something else needs it. What a lender keeps is not counted.
std::uint64_t free_for_arrays(Device device) {
    const CurrentDevice current(device.index);
    std::size_t free = 0, all = 0;
    check(driver().memory_info(&free, &all), "cuMemGetInfo");
    return std::uint64_t{free} + kept_bytes(device.index);
}

}  // namespace

constexpr DeviceMemory kMemory = {.allocate = allocate,
                                  .free = free_block,
                                  .from_host = from_host,
                                  .to_host = to_host,
                                  .copy = copy,
                                  .clear = clear,
                                  .send = send,
                                  .free_bytes = free_for_arrays};

void borrow_memory(const MemoryLender& from) {
    lender = from;
}

void note_stream(int device, void* stream) noexcept {
    if (lender.lend != nullptr) return;
    Cache& cache = cache_of(device);
    const std::lock_guard lock(cache.guard);
    if (std::find(cache.streams.begin(), cache.streams.end(), stream) != cache.streams.end()) return;
    // What was freed so far has no event of the first stream. Where one is captured the driver refuses to
    // wait, and to go on.
    if (cache.streams.size() == 1 && driver().synchronize() != kSuccess) return;
    cache.streams.push_back(stream);
}

std::size_t kept_bytes(int device) {
    Cache& cache = cache_of(device);
    const std::lock_guard lock(cache.guard);
    std::size_t bytes = 0;
    for (const auto& [size, block] : cache.kept) bytes += size;
    return bytes;
}

}  // namespace aerogel::cuda
