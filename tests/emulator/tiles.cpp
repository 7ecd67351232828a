// A tile lands whole, late or at once, in any order, and then counts on its mbarrier.
#include "emulator/tiles.h"

#include <cstring>
#include <string>

#include "emulator/block.h"
#include "emulator/engines.h"
#include "emulator/tensor_map.h"

namespace aerogel::emulator {

namespace {

std::size_t rows_of(const DecodedMap& m) {
    std::size_t rows = 1;
    for (int d = 1; d < m.rank; ++d) rows *= m.box[d];
    return rows;
}

std::size_t row_bytes(const DecodedMap& m) {
    return std::size_t{m.box[0]} * m.element_bytes;
}

/// One row of the box, zeros where the array ends.
void copy_row(const Tile& tile, std::size_t row, unsigned char* to) {
    const DecodedMap& m = tile.map;
    const std::int64_t bytes = static_cast<std::int64_t>(row_bytes(m)), element = m.element_bytes;
    std::memset(to, 0, row_bytes(m));
    const unsigned char* from = m.address;
    for (int d = 1; d < m.rank; ++d) {
        const std::int64_t at =
            static_cast<std::int64_t>(row % m.box[d]) + tile.at.at[static_cast<std::size_t>(d)];
        row /= m.box[d];
        if (at < 0 || at >= m.sizes[d]) return;
        from += at * static_cast<std::int64_t>(m.strides[d - 1]);
    }
    const std::int64_t first = tile.at.at[0] * element, end = std::int64_t{m.sizes[0]} * element;
    const std::int64_t begin = std::max<std::int64_t>(first, 0), stop = std::min(first + bytes, end);
    if (begin < stop) std::memcpy(to + (begin - first), from + begin, static_cast<std::size_t>(stop - begin));
}

void land(Block& block, const Tile& tile) {
    const DecodedMap& m = tile.map;
    std::array<unsigned char, 2048> row{};
    const std::size_t bytes = row_bytes(m), rows = rows_of(m);
    for (std::size_t r = 0; r < rows; ++r) {
        copy_row(tile, r, row.data());
        for (std::size_t c = 0; c < bytes; c += 16) {
            std::memcpy(block.shared + swizzled_address(m.swizzle, tile.offset + r * bytes + c),
                        row.data() + c, 16);
        }
    }
    ++block.engine_clock[0];
    note_tile_landed(block, tile.offset, static_cast<int>(bytes * rows));
    MBarrier& b = block.mbarriers.at(tile.barrier);
    b.bytes -= static_cast<std::int64_t>(bytes * rows);
    b.told->clock[block.fibers.size()] = block.engine_clock[0];
    end_phase_if_complete(block, b);
}

/// All of the array must be memory that the kernel may read; the first and the last bytes tell.
void check_array(const DecodedMap& m, Where where) {
    std::uint64_t last = std::uint64_t{m.sizes[0]} * m.element_bytes;
    for (int d = 1; d < m.rank; ++d) last += (m.sizes[d] - std::uint64_t{1}) * m.strides[d - 1];
    check_global(m.address, 1, false, where);
    check_global(m.address + last - 1, 1, false, where);
}

/// tile.map and tile.at are given.
void begin(Tile& tile, void* to, int alignment, std::uint64_t* barrier, Where where) {
    Fiber& me = self();
    Block& block = *me.block;
    const int bytes = static_cast<int>(row_bytes(tile.map) * rows_of(tile.map));
    tile.offset = shared_offset(me, to, bytes, alignment, where);
    tile.barrier = shared_offset(me, barrier, 8, 8, where);
    if (block.mbarriers.count(tile.barrier) == 0)
        fail("a tile for an mbarrier that was not initialised", where);
    note_barrier_used(me, tile.barrier, where);
    note_barrier_fenced(me, tile.barrier, where);
    note_tile_begins(me, tile.offset, bytes, where);
    ++block.report->copies;
    if (block.options->late) {
        block.tiles.push_back(tile);
    } else {
        land(block, tile);
    }
}

}  // namespace

void load_tile(void* to, const void* map, std::uint64_t* barrier, const TileAt& at, Where where) {
    require_sm(90, where);
    Tile tile{};
    if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0)
        fail("a tensor map must be aligned to 64 bytes", where);
    std::memcpy(&tile.map, map, sizeof tile.map);
    if (tile.map.magic != kMapMagic) fail("no tensor map that the driver made", where);
    if (tile.map.rank != at.rank) fail("the tensor map has rank " + std::to_string(tile.map.rank), where);
    check_array(tile.map, where);
    tile.at = at;
    begin(tile, to, tile.map.swizzle == kSwizzle128 ? 1024 : 128, barrier, where);
}

void load_run(void* to, const void* from, int bytes, std::uint64_t* barrier, Where where) {
    require_sm(90, where);
    if (bytes <= 0 || bytes % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0)
        fail("a run of bytes must begin at a multiple of 16 and have a multiple of 16 of them", where);
    check_global(from, bytes, false, where);
    Tile tile{};
    tile.map.address = static_cast<unsigned char*>(const_cast<void*>(from));
    tile.map.rank = 2;
    tile.map.element_bytes = 16;
    tile.map.swizzle = kNoSwizzle;
    tile.map.box[0] = 1;
    tile.map.box[1] = static_cast<std::uint16_t>(bytes / 16);
    tile.map.sizes[0] = 1;
    tile.map.sizes[1] = static_cast<std::uint32_t>(bytes / 16);
    tile.map.strides[0] = 16;
    tile.at.rank = 2;
    begin(tile, to, 16, barrier, where);
}

bool land_a_tile(Block& block) {
    if (block.tiles.empty()) return false;
    const std::size_t i = block.random() % block.tiles.size();
    const Tile tile = block.tiles[i];
    block.tiles.erase(block.tiles.begin() + static_cast<std::ptrdiff_t>(i));
    land(block, tile);
    return true;
}

}  // namespace aerogel::emulator
