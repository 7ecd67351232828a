// Products of a warp group. They run between their issue and the wait for their group: late ones at the wait,
// others at the issue. Until the wait the sums in registers are garbage, and shared memory that they read
// must stay as it is.
#include "emulator/warp_groups.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "emulator/block.h"
#include "emulator/dots.h"
#include "emulator/engines.h"
#include "emulator/fragments.h"
#include "emulator/tensor_map.h"

namespace aerogel::emulator {

namespace {

constexpr int kRows = 64, kRowBytes = 32, kMostColumns = 256;
constexpr std::uint32_t kGarbage = 0x7FDEADBE;  // a NaN

/// The 128 lanes come together; the last one computes for all.
template <class F>
void gather(const void* in, const char* what, F f, Where where) {
    Fiber& me = self();
    Block& block = *me.block;
    const unsigned id = me.warp_id / 4;
    if (id * 4 + 4 > block.warps.size()) fail("a warp group has four warps", where);
    WarpGroup& group = block.groups[id];
    if (group.arrived == 0) {
        group.where = where;
    } else if (group.where.line != where.line) {
        fail("lanes of warp group " + std::to_string(id) + " have parted: others are at " +
                 text_of(group.where),
             where);
    }
    group.in[me.id % 128] = in;
    if (++group.arrived < 128) {
        wait(what, -1, where);
        return;
    }
    group.arrived = 0;
    Fiber* first = &block.fibers[id * 128];
    f(block, group, first);
    for (unsigned i = 0; i < 128; ++i) {
        if (&first[i] != &me) block.wake(first[i]);
    }
}

std::vector<Fiber*> distinct(Fiber* first) {
    std::vector<Fiber*> found;
    for (unsigned i = 0; i < 128; ++i) {
        if (found.empty() || found.back()->knows != first[i].knows) found.push_back(&first[i]);
    }
    return found;
}

const GroupProduct& in_of(const WarpGroup& group, int t) {
    return *static_cast<const GroupProduct*>(group.in[static_cast<std::size_t>(t)]);
}

GroupTile decode(std::uint64_t d, Where where) {
    if (d >> 62 != 1) fail("a descriptor of another swizzle than that of 128 bytes", where);
    if ((d >> 49 & 7) != 0) fail("a descriptor with a base offset", where);
    return {(d & 0x3FFF) << 4, (d >> 16 & 0x3FFF) << 4, (d >> 32 & 0x3FFF) << 4};
}

/// Offsets of the chunks of 16 bytes of a tile: [rows][2] with k along the rows, else [16 k][columns / 8].
std::vector<std::size_t> chunks_of(std::uint64_t descriptor, int rows, bool transposed, Where where) {
    const GroupTile d = decode(descriptor, where);
    const Block& block = *self().block;
    std::vector<std::size_t> chunks;
    chunks.reserve(2 * static_cast<std::size_t>(rows));
    const auto add = [&](std::size_t address) {
        const std::size_t at = swizzled_address(kSwizzle128, address) - kSharedBase;
        if (at + 16 > block.shared_bytes) fail("a descriptor leads out of shared memory", where);
        chunks.push_back(at);
    };
    if (!transposed) {
        for (int r = 0; r < rows; ++r) {
            for (std::size_t c = 0; c < 2; ++c) {
                add(chunk_along_k(d, static_cast<std::size_t>(r), c));
            }
        }
        return chunks;
    }
    for (std::size_t k = 0; k < 16; ++k) {
        for (std::size_t c = 0; c < static_cast<std::size_t>(rows) / 8; ++c) {
            add(chunk_across_k(d, k, c));
        }
    }
    return chunks;
}

/// Rows of 32 bytes from the chunks of a tile.
void read_rows(const Block& block, const std::vector<std::size_t>& chunks, int rows, bool transposed,
               unsigned char* to) {
    if (!transposed) {
        for (std::size_t i = 0; i < chunks.size(); ++i)
            std::memcpy(to + i * 16, block.shared + chunks[i], 16);
        return;
    }
    const auto per_k = static_cast<std::size_t>(rows) / 8;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
        const std::size_t k = i / per_k, first_row = i % per_k * 8;
        for (std::size_t r = 0; r < 8; ++r) {
            std::memcpy(to + (first_row + r) * kRowBytes + k * 2, block.shared + chunks[i] + r * 2, 2);
        }
    }
}

/// A from the registers of 128 lanes. They lie alike, whatever is in them.
void read_registers(const GroupWork& work, unsigned char* to) {
    for (int t = 0; t < 128; ++t) {
        for (int r = 0; r < 4; ++r) {
            const Place p = place_in_a(4, t % 32, r, 0);
            std::memcpy(to + (t / 32 * 16 + p.row) * kRowBytes + p.column,
                        &work.a[static_cast<std::size_t>(t)][static_cast<std::size_t>(r)], 4);
        }
    }
}

/// What a product works on: too large for the stacks of fibers.
struct Scratch {
    alignas(64) unsigned char a[kRows * kRowBytes], b[kMostColumns * kRowBytes];
    alignas(64) std::int16_t bytes_a[kRows * 32], bytes_b[kMostColumns * 32];
    alignas(64) float floats_a[kRows * 32], floats_b[kMostColumns * 32], columns[kMostColumns * 32];
    alignas(64) double product[kRows * kMostColumns];
};

void compute_s8(const GroupWork& work, Scratch& s, std::vector<std::uint32_t>& sums) {
    widen(s.a, s.bytes_a, kRows * 32, true);
    widen(s.b, s.bytes_b, work.n * 32, true);
    add_products(s.bytes_a, s.bytes_b, reinterpret_cast<std::int32_t*>(sums.data()), {kRows, work.n, 32});
}

void compute_floats(const GroupWork& work, Scratch& s, std::vector<std::uint32_t>& sums) {
    const int depth = depth_of(work.product);
    widen(work.product, s.a, s.floats_a, kRows * depth);
    widen(work.product, s.b, s.floats_b, work.n * depth);
    for (int k = 0; k < depth; ++k) {
        for (int n = 0; n < work.n; ++n) s.columns[k * work.n + n] = s.floats_b[n * depth + k];
    }
    multiply_exactly(s.floats_a, s.columns, s.product, {kRows, work.n, depth});
    for (std::size_t i = 0; i < sums.size(); ++i) {
        const auto before = static_cast<double>(std::bit_cast<float>(sums[i]));
        sums[i] = std::bit_cast<std::uint32_t>(static_cast<float>(before + s.product[i]));
    }
}

void compute(Block& block, WarpGroup& group, GroupWork& work) {
    if (work.computed) return;
    work.computed = true;
    static thread_local const auto own =
        std::make_unique<Scratch>();  // a library has little thread-local memory
    Scratch& scratch = *own;
    if (work.a_chunks.empty()) {
        read_registers(work, scratch.a);
    } else {
        read_rows(block, work.a_chunks, kRows, false, scratch.a);
    }
    read_rows(block, work.b_chunks, work.n, work.b_transposed, scratch.b);
    std::vector<std::uint32_t>& sums = group.sums.at(work.sums[0]);
    if (!work.accumulate) std::fill(sums.begin(), sums.end(), 0U);
    if (work.product == Product::s8) {
        compute_s8(work, scratch, sums);
    } else {
        compute_floats(work, scratch, sums);
    }
    ++block.report->products;
}

/// Calls move(sum, register) for all registers that hold sums [64, n].
template <class Move>
void each_sum(const GroupWork& work, std::vector<std::uint32_t>& sums, Move move) {
    for (int t = 0; t < 128; ++t) {
        auto* const registers = static_cast<std::uint32_t*>(work.sums[static_cast<std::size_t>(t)]);
        for (int v = 0; v < 4; ++v) {
            const Place p = place_in_group(t, v);
            std::uint32_t* const row = &sums[static_cast<std::size_t>(p.row * work.n + p.column)];
            for (int eight = 0; eight < work.n / 8; ++eight) move(row[eight * 8], registers[eight * 4 + v]);
        }
    }
}

/// The sums leave the registers for as long as products add to them.
void take_sums(WarpGroup& group, const GroupWork& work) {
    std::vector<std::uint32_t>& kept = group.sums[work.sums[0]];
    if (!kept.empty()) return;
    kept.resize(static_cast<std::size_t>(kRows * work.n));
    each_sum(work, kept, [](std::uint32_t& sum, std::uint32_t& in) { sum = std::exchange(in, kGarbage); });
}

void give_sums(WarpGroup& group, const GroupWork& work) {
    for (const GroupWork& other : group.works) {
        if (other.sums[0] == work.sums[0]) return;
    }
    const auto kept = group.sums.find(work.sums[0]);
    if (kept == group.sums.end()) return;
    each_sum(work, kept->second, [](std::uint32_t sum, std::uint32_t& out) { out = sum; });
    group.sums.erase(kept);
}

GroupWork make_work(const WarpGroup& group, Where where) {
    const GroupProduct& p = in_of(group, 0);
    GroupWork work;
    work.product = p.product;
    work.n = p.n;
    work.accumulate = p.accumulate;
    work.b_transposed = p.b_transposed;
    for (int t = 0; t < 128; ++t) {
        const GroupProduct& q = in_of(group, t);
        if (q.b_tile != p.b_tile || (!p.a_in_registers && q.a_tile != p.a_tile) ||
            q.accumulate != p.accumulate) {
            fail("lanes of a warp group give different tiles", where);
        }
        std::copy(std::begin(q.a), std::end(q.a), work.a[static_cast<std::size_t>(t)].begin());
        work.sums[static_cast<std::size_t>(t)] = q.sums;
    }
    if (!p.a_in_registers) work.a_chunks = chunks_of(p.a_tile, kRows, false, where);
    work.b_chunks = chunks_of(p.b_tile, p.n, p.b_transposed, where);
    return work;
}

void issue(Block& block, WarpGroup& group, Fiber* first) {
    const Where where = self().where_called;
    GroupWork work = make_work(group, where);
    if (!group.fenced) fail("a product without wgmma_fence() since the last wait", where);
    const std::vector<Fiber*> who = distinct(first);
    for (const std::size_t c : work.a_chunks) note_product_begins(block, who, c, where);
    for (const std::size_t c : work.b_chunks) note_product_begins(block, who, c, where);
    work.commit = group.commits;
    take_sums(group, work);
    group.works.push_back(std::move(work));
    if (!block.options->late) compute(block, group, group.works.back());
}

void retire(Block& block, WarpGroup& group, Fiber* first, int newest) {
    const auto id = static_cast<unsigned>(&group - block.groups.data());
    const auto member = block.fibers.size() + 1 + id;
    ++block.engine_clock[1 + id];
    while (!group.works.empty() && group.works.front().commit < group.commits - newest) {
        GroupWork work = std::move(group.works.front());
        compute(block, group, work);
        group.works.pop_front();
        for (const std::size_t c : work.a_chunks) note_product_done(block, c, id);
        for (const std::size_t c : work.b_chunks) note_product_done(block, c, id);
        give_sums(group, work);
    }
    if (group.works.empty()) group.fenced = false;
    Knowledge *from = nullptr, *to = nullptr;
    for (unsigned i = 0; i < 128; ++i) {
        if (first[i].knows != from) {
            block.pool->assign(from, first[i].knows);
            Knowledge* learned = block.pool->copy(from);
            learned->clock[member] = block.engine_clock[1 + id];
            block.pool->assign(to, learned);
            block.pool->drop(learned);
        }
        block.pool->assign(first[i].knows, to);
    }
    block.pool->drop(from);
    block.pool->drop(to);
}

}  // namespace

void group_fence(Where where) {
    require_sm(90, where);
    gather(
        nullptr, "its warp group at wgmma_fence",
        [](Block&, WarpGroup& group, Fiber*) { group.fenced = true; }, where);
}

void group_multiply(const GroupProduct& product, Where where) {
    require_sm(90, where);
    self().where_called = where;
    gather(&product, "its warp group at wgmma", issue, where);
}

void group_commit(Where where) {
    gather(
        nullptr, "its warp group at wgmma_commit", [](Block&, WarpGroup& group, Fiber*) { ++group.commits; },
        where);
}

void group_wait(int newest, Where where) {
    gather(
        nullptr, "its warp group at wgmma_wait",
        [newest](Block& block, WarpGroup& group, Fiber* first) { retire(block, group, first, newest); },
        where);
}

}  // namespace aerogel::emulator
