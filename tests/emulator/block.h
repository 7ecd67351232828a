// The state of a block that runs: its fibers, warps, barriers and shared memory.
#pragma once

#include <array>
#include <bit>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "emulator/clocks.h"
#include "emulator/emulator.h"
#include "emulator/global_shadow.h"
#include "emulator/lane.h"
#include "emulator/products.h"
#include "emulator/tensor_map.h"
#include "emulator/tiles.h"

namespace aerogel::emulator {

struct Copy {
    unsigned char* to;
    const unsigned char* from;
    int bytes, kept;
    int group;  ///< the thread's commits before it
    Where where;
};

struct Block;

/// One thread.
struct Fiber {
    dim3 thread_index, block_index;
    void* stack_pointer = nullptr;
    const unsigned char *stack_begin = nullptr, *stack_end = nullptr;
    Block* block = nullptr;
    unsigned id = 0, lane_id = 0, warp_id = 0;
    const char* waits_for = nullptr;  ///< for the report of a deadlock
    int waits_at = -1;                ///< the number of the barrier, if it is one
    Where where{"", 0};
    Where where_called{"", 0};  ///< of the product it gives to its warp group
    std::uint32_t clock = 1;
    Knowledge* knows = nullptr;
    std::uint32_t fenced = 0;  ///< its clock at its last fence_async()
    Knowledge* fence_knows = nullptr;
    std::vector<Copy> copies;
    int groups = 0;
};

/// What the lanes of a warp access at one turn of one instruction.
struct WarpAccess {
    std::uint32_t lanes = 0;
    int bytes = 0;
    std::array<unsigned, 32> offset{};
};
struct Site {
    std::array<unsigned, 32> turns{};
    std::vector<WarpAccess> accesses;
};
constexpr unsigned kMostTurns = 1024;

struct Warp {
    std::unordered_map<const void*, Site> sites;
    std::array<std::pair<const void*, Site*>, 256> found{};  ///< by address, those looked for last
    std::vector<Site*> accessed;                             ///< since count_banks()

    Site& site_of(const void* instruction) {
        auto& [of, site] = found[reinterpret_cast<std::uintptr_t>(instruction) * 0x9E3779B97F4A7C15ULL >> 56];
        if (of != instruction) {
            of = instruction;
            site = &sites[instruction];
        }
        return *site;
    }

    std::uint32_t live = 0, runnable = 0, arrived = 0;
    Operation operation = nullptr;
    Where where{"", 0};
    Gathered gathered;
};

struct Barrier {
    unsigned arrived = 0, expected = 0;
    std::vector<Fiber*> waiting;
    Knowledge* told = nullptr;
    Knowledge* last = nullptr;  ///< joined last, so that the same is not joined again
};

struct MBarrier {
    int arrivals = 0, pending = 0;
    std::uint32_t phase = 0;
    std::int64_t bytes = 0;  ///< that the phase still waits for; a tile may land before it is expected
    Knowledge *told = nullptr,
              *opened = nullptr;  ///< by those who arrive; to those who see the last phase end
    Knowledge* last = nullptr;
    Knowledge *learned_from = nullptr, *learned_to = nullptr, *learned = nullptr;
    std::vector<Fiber*> waiting;
};

/// A tile that TMA copies.
struct Tile {
    DecodedMap map;
    std::size_t offset, barrier;
    TileAt at;
};

/// A product of a warp group under way.
struct GroupWork {
    Product product = Product::s8;
    int n = 0, commit = 0;  ///< the group's commits before it
    bool accumulate = true, b_transposed = false, computed = false;
    std::array<std::array<std::uint32_t, 4>, 128> a{};
    std::array<void*, 128> sums{};
    std::vector<std::size_t> a_chunks, b_chunks;  ///< offsets of 16 bytes
};

struct WarpGroup {
    std::array<const void*, 128> in{};
    unsigned arrived = 0;
    Where where{"", 0};
    int commits = 0;
    bool fenced = false;
    std::deque<GroupWork> works;
    /// [64, n], by the registers of the group's first lane.
    std::map<void*, std::vector<std::uint32_t>> sums;
};

constexpr int kBarriers = 16;
/// Members of the clocks beside the threads: the copy engine and the products of eight warp groups.
constexpr unsigned kEngines = 9;

/// The bytes of shared memory: who wrote and who read them last.
struct Shadow {
    std::vector<Moment> written, read;
    std::vector<std::uint16_t> in_use;  ///< products under way that read these 16 bytes
    unsigned all_in_use = 0;
};

struct Random {
    std::uint64_t state;
    std::uint64_t operator()() {  // splitmix64
        std::uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
        return z ^ (z >> 31);
    }
};

struct Block {
    std::uint64_t number = 0;  ///< in its launch, from 1, in the order they run
    bool has_atomics = false;  ///< used an atomic operation on global memory
    GlobalShadow* global = nullptr;
    const Shape* shape;
    const Options* options;
    Report* report;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    unsigned live = 0;
    std::uint32_t runnable = 0;  ///< warps
    bool over = false;           ///< after a fault
    void* scheduler = nullptr;   ///< its stack pointer
    Random random{0};
    unsigned char* shared = nullptr;
    std::size_t shared_bytes = 0;
    Shadow shadow;
    Barrier barriers[kBarriers];
    std::unordered_map<std::size_t, MBarrier> mbarriers;  ///< by offset
    std::vector<Tile> tiles;                              ///< under way
    std::array<WarpGroup, kEngines - 1> groups;
    std::array<std::uint32_t, kEngines> engine_clock{};
    std::unique_ptr<KnowledgePool> pool;
    void (*body)(const void*) = nullptr;
    const void* arguments = nullptr;

    void wake(Fiber& fiber) {
        warps[fiber.warp_id].runnable |= 1U << fiber.lane_id;
        runnable |= 1U << fiber.warp_id;
    }
};

/// The thread that runs; null outside of kernels. A fiber stays on its system thread.
extern __thread Fiber* running __attribute__((tls_model("initial-exec")));

inline Fiber& self() {
    return *running;
}

/// The calling fiber stops until someone wakes it.
void wait(const char* what, int number, Where where);

/// Ends the launch: message, then thread, block and line.
[[noreturn]] void fail(const std::string& message, Where where);

std::string name_of(const Block& block, unsigned member);
std::string text_of(Where where);

/// Of the address space kept for shared memory: what lies in it is meant to be shared memory.
constexpr std::size_t kSharedReserveBytes = 512 * 1024;

// --- accesses.cpp ---
void check_global(const void* p, int bytes, bool writes, Where where);
/// The same for a read, and looks for races.
void read_global(const void* p, int bytes, Where where);
void note_banks(Fiber& fiber, const void* instruction, unsigned offset, int bytes);
/// All lanes of the warp have come to a stop: their accesses are put together.
void count_banks(Block& block, Warp& warp);
inline bool on_stack(const Fiber& fiber, const unsigned char* p) {
    return p >= fiber.stack_begin && p < fiber.stack_end;
}

// --- shadow.cpp: offsets count from the beginning of the block's shared memory ---
void note_read(Fiber& fiber, std::size_t offset, int bytes, Where where);
void note_write(Fiber& fiber, std::size_t offset, int bytes, Where where);
void note_copy_begins(Fiber& fiber, const Copy& copy);
void note_copy_landed(Fiber& fiber, const Copy& copy);

/// The offset of bytes that must lie in the block's shared memory, whole and aligned; a fault otherwise.
std::size_t shared_offset(const Fiber& fiber, const void* p, int bytes, int alignment, Where where);

}  // namespace aerogel::emulator
