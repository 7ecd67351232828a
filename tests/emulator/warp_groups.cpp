// Products of a warp group. They run between their issue and the wait for their group: late ones at the wait,
// others at the issue. Until the wait the sums in registers are garbage, and shared memory that they read
// must stay as it is.
#include "emulator/warp_groups.h"

#include <bit>
#include <cstring>
#include <string>

#include "emulator/block.h"
#include "emulator/dots.h"
#include "emulator/engines.h"
#include "emulator/fragments.h"
#include "emulator/numbers.h"
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

/// A from the registers of 128 lanes.
void read_registers(const GroupWork& work, unsigned char* to) {
    const int per = work.product == Product::bf16 || work.product == Product::f16 ? 2 : 4;
    const int bytes = 4 / per;
    for (int t = 0; t < 128; ++t) {
        for (int r = 0; r < 4; ++r) {
            for (int i = 0; i < per; ++i) {
                const Place p = place_in_a(per, t % 32, r, i);
                const std::uint32_t bits =
                    work.a[static_cast<std::size_t>(t)][static_cast<std::size_t>(r)] >> (8 * bytes * i);
                std::memcpy(to + (t / 32 * 16 + p.row) * kRowBytes + p.column * bytes, &bits,
                            static_cast<std::size_t>(bytes));
            }
        }
    }
}

float number_at(Product product, const unsigned char* row, int k) {
    if (product == Product::e4m3) return decode(kE4M3, row[k]);
    std::uint16_t bits;
    std::memcpy(&bits, row + k * 2, 2);
    return product == Product::bf16 ? float_of_bf16(bits) : decode(kF16, bits);
}

int index_of(const GroupWork& work, int t, int v) {
    const Place p = place_in_group(t, v);
    return p.row * work.n + p.column;
}

void compute_s8(const GroupWork& work, const unsigned char* a, const unsigned char* b,
                std::vector<std::uint32_t>& sums) {
    std::vector<std::int16_t> wide_a(kRows * 32), wide_b(static_cast<std::size_t>(work.n) * 32);
    for (std::size_t i = 0; i < wide_a.size(); ++i) wide_a[i] = static_cast<std::int8_t>(a[i]);
    for (std::size_t i = 0; i < wide_b.size(); ++i) wide_b[i] = static_cast<std::int8_t>(b[i]);
    std::vector<std::int32_t> product(static_cast<std::size_t>(kRows * work.n));
    add_products(wide_a.data(), wide_b.data(), product.data(), {kRows, work.n, 32});
    const int each = work.n / 2;
    for (int t = 0; t < 128; ++t) {
        for (int v = 0; v < each; ++v) {
            std::uint32_t& sum = sums[static_cast<std::size_t>(t * each + v)];
            const auto p =
                static_cast<std::uint32_t>(product[static_cast<std::size_t>(index_of(work, t, v))]);
            sum = (work.accumulate ? sum : 0) + p;
        }
    }
}

void compute_floats(const GroupWork& work, const unsigned char* a, const unsigned char* b,
                    std::vector<std::uint32_t>& sums) {
    const int depth = work.product == Product::e4m3 ? 32 : 16;
    std::vector<float> wide_a(static_cast<std::size_t>(kRows * depth)),
        wide_b(static_cast<std::size_t>(work.n * depth));
    for (int k = 0; k < depth; ++k) {
        for (int r = 0; r < kRows; ++r)
            wide_a[static_cast<std::size_t>(r * depth + k)] = number_at(work.product, a + r * kRowBytes, k);
        for (int n = 0; n < work.n; ++n)
            wide_b[static_cast<std::size_t>(k * work.n + n)] = number_at(work.product, b + n * kRowBytes, k);
    }
    std::vector<double> product(static_cast<std::size_t>(kRows * work.n));
    multiply_exactly(wide_a.data(), wide_b.data(), product.data(), {kRows, work.n, depth});
    const int each = work.n / 2;
    for (int t = 0; t < 128; ++t) {
        for (int v = 0; v < each; ++v) {
            std::uint32_t& sum = sums[static_cast<std::size_t>(t * each + v)];
            const double p = product[static_cast<std::size_t>(index_of(work, t, v))];
            const double before = work.accumulate ? static_cast<double>(std::bit_cast<float>(sum)) : 0;
            sum = std::bit_cast<std::uint32_t>(static_cast<float>(before + p));
        }
    }
}

void compute(Block& block, WarpGroup& group, GroupWork& work) {
    if (work.computed) return;
    work.computed = true;
    alignas(64) unsigned char a[kRows * kRowBytes], b[kMostColumns * kRowBytes];
    if (work.a_chunks.empty()) {
        read_registers(work, a);
    } else {
        read_rows(block, work.a_chunks, kRows, false, a);
    }
    read_rows(block, work.b_chunks, work.n, work.b_transposed, b);
    std::vector<std::uint32_t>& sums = group.sums.at(work.sums[0]);
    if (work.product == Product::s8) {
        compute_s8(work, a, b, sums);
    } else {
        compute_floats(work, a, b, sums);
    }
    ++block.report->products;
}

/// The sums leave the registers for as long as products add to them.
void take_sums(WarpGroup& group, const GroupWork& work) {
    std::vector<std::uint32_t>& kept = group.sums[work.sums[0]];
    const auto each = static_cast<std::size_t>(work.n / 2);
    if (!kept.empty()) return;
    kept.resize(128 * each);
    for (std::size_t t = 0; t < 128; ++t) {
        std::memcpy(&kept[t * each], work.sums[t], each * 4);
        auto* registers = static_cast<std::uint32_t*>(work.sums[t]);
        for (std::size_t v = 0; v < each; ++v) registers[v] = kGarbage;
    }
}

void give_sums(WarpGroup& group, const GroupWork& work) {
    for (const GroupWork& other : group.works) {
        if (other.sums[0] == work.sums[0]) return;
    }
    const auto kept = group.sums.find(work.sums[0]);
    if (kept == group.sums.end()) return;
    const auto each = static_cast<std::size_t>(work.n / 2);
    for (std::size_t t = 0; t < 128; ++t) std::memcpy(work.sums[t], &kept->second[t * each], each * 4);
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
