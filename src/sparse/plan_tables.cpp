// Tables are made on the host and copied once.
#include "sparse/plan_tables.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <list>
#include <mutex>
#include <utility>

#include "base/fork.h"
#include "base/thread_pool.h"
#include "core/device_memory.h"
#include "ops/planning.h"
#include "sparse/masks.h"
#include "sparse/recognition.h"

namespace aerogel {

template <typename T>
Tensor bytes_on(Device device, const std::vector<T>& values) {
    Tensor bytes(DType::u8, {static_cast<std::int64_t>(values.size() * sizeof(T))});
    if (!values.empty()) std::memcpy(bytes.mutable_data(), values.data(), values.size() * sizeof(T));
    return bytes.to(device);
}

template Tensor bytes_on(Device, const std::vector<std::uint8_t>&);

namespace {

IndexRange range_of(std::int64_t begin, std::int64_t end) {
    return {static_cast<std::int32_t>(begin), static_cast<std::int32_t>(end)};
}

// For each block the cells that share a token with it.
std::vector<IndexRange> reach_of(const Cells& cells, const SparseGeometry& side) {
    std::vector<IndexRange> reach;
    std::size_t begin = 0;
    for (std::int64_t block = 0; block < side.blocks(); ++block) {
        while (cells[begin].end <= block * side.block) ++begin;
        std::size_t end = begin;
        while (end < cells.size() && cells[end].begin < (block + 1) * side.block) ++end;
        reach.push_back(range_of(static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end)));
    }
    return reach;
}

struct TablesOfSide {
    TokenOrder (*HeadPattern::*order)(const SparseGeometry& side);
    const SparseGeometry& side;
    std::int64_t mask_count;
};

SideTables tables_of(const TablesRequest& request, const TablesOfSide& of, Device device) {
    SideTables tables;
    tables.cells = request.patterns[0]->cells(of.side);
    tables.blocks = of.side.blocks();
    std::vector<IndexRange> ranges;
    std::vector<std::uint8_t> kept;
    for (const Cell& cell : tables.cells) {
        ranges.push_back(range_of(cell.begin, cell.end));
        kept.push_back(cell.always_kept ? 1 : 0);
    }
    tables.ranges = bytes_on(device, ranges);
    tables.kept = bytes_on(device, kept);
    tables.reach = bytes_on(device, reach_of(tables.cells, of.side));
    std::vector<std::int32_t> all;
    for (const HeadPattern* pattern : request.patterns) {
        if (pattern->*of.order == nullptr) continue;
        tables.orders.push_back((pattern->*of.order)(of.side));
        all.insert(all.end(), tables.orders.back().begin(), tables.orders.back().end());
    }
    if (!all.empty()) tables.order = bytes_on(device, all);
    if (of.mask_count != 0 && of.mask_count != static_cast<std::int64_t>(tables.cells.size()))
        if (const auto parts = mask_parts(of.side, *request.patterns[0], of.mask_count))
            tables.parts = bytes_on(device, *parts);
    return tables;
}

void add_static_lists(const TablesRequest& request, PlanTables& tables) {
    const SparseSides& sides = request.sides;
    std::vector<std::uint8_t> grids;
    for (const HeadPattern* pattern : tables.patterns) {
        tables.grids.push_back(pattern->static_blocks(sides.q));
        grids.insert(grids.end(), tables.grids.back().begin(), tables.grids.back().end());
    }
    const auto q_reach = reach_of(tables.q.cells, sides.q), k_reach = reach_of(tables.k.cells, sides.k);
    const std::size_t lists = tables.patterns.size() * q_reach.size();
    std::vector<std::int64_t> row_start(lists), row_end(lists);
    std::vector<std::int32_t> columns(lists * k_reach.size());
    BlockListsArgs args;
    args.grid = grids.data();
    args.maps = static_cast<std::int64_t>(tables.patterns.size());
    args.rows = static_cast<std::int64_t>(tables.q.cells.size());
    args.columns_of_grid = static_cast<std::int64_t>(tables.k.cells.size());
    args.q_reach = q_reach.data();
    args.k_reach = k_reach.data();
    args.q_blocks = tables.q.blocks;
    args.k_blocks = tables.k.blocks;
    args.row_start = row_start.data();
    args.row_end = row_end.data();
    args.columns = columns.data();
    run_operation([&] { planning_kernels(Device::cpu).block_lists(args); }, request.threads);
    tables.row_start = bytes_on(tables.device, row_start);
    tables.row_end = bytes_on(tables.device, row_end);
    tables.columns = bytes_on(tables.device, columns);
    if (request.keeps_cells) tables.cells = bytes_on(tables.device, grids);
}

// 0 and 1 for each sampled query and key: whether that score lies in a block that the pattern keeps.
void add_sample_mask(const PlanTables& tables, std::size_t pattern, const SampledTokens& sample,
                     std::vector<std::uint8_t>& mask) {
    const std::int64_t block = sample.block;
    const TokenOrder q_place = inverse_order(tables.q.orders[pattern]),
                     k_place = inverse_order(tables.k.orders[pattern]);
    std::vector<std::int64_t> columns;
    for (const std::int64_t key : sample.keys)
        columns.push_back(k_place[static_cast<std::size_t>(key)] / block);
    for (const std::int64_t query : sample.queries) {
        const std::uint8_t* row =
            tables.grids[pattern].data() + q_place[static_cast<std::size_t>(query)] / block * tables.k.blocks;
        for (const std::int64_t column : columns) mask.push_back(row[column]);
        mask.resize(static_cast<std::size_t>(in_panels(static_cast<std::int64_t>(mask.size()))), 0);
    }
}

std::vector<IndexRange> single_cells(const std::vector<std::int64_t>& tokens) {
    std::vector<IndexRange> cells;
    for (const std::int64_t token : tokens) cells.push_back(range_of(token, token + 1));
    return cells;
}

void add_sample(const SparseSides& sides, PlanTables& tables) {
    const SampledTokens sample = sampled_tokens(sides.q);
    tables.sampled_queries = static_cast<std::int64_t>(sample.queries.size());
    tables.sampled_keys = static_cast<std::int64_t>(sample.keys.size());
    tables.query_cells = bytes_on(tables.device, single_cells(sample.queries));
    tables.key_cells = bytes_on(tables.device, single_cells(sample.keys));
    std::vector<std::uint8_t> masks;
    for (std::size_t pattern = 0; pattern + 1 < tables.patterns.size(); ++pattern)
        add_sample_mask(tables, pattern, sample, masks);
    tables.sample_masks = bytes_on(tables.device, masks);
}

std::shared_ptr<const PlanTables> make_tables(const TablesRequest& request, Device device) {
    auto tables = std::make_shared<PlanTables>();
    tables->device = device;
    tables->patterns = request.patterns;
    tables->q = tables_of(request, {&HeadPattern::q_order, request.sides.q, request.mask_rows}, device);
    tables->k = tables_of(request, {&HeadPattern::k_order, request.sides.k, request.mask_columns}, device);
    if (request.patterns[0]->static_blocks != nullptr) add_static_lists(request, *tables);
    if (request.recognises) add_sample(request.sides, *tables);
    return tables;
}

// Everything that tables are made from.
using Key = std::vector<std::int64_t>;

void add_side(const SparseGeometry& side, Key& key) {
    key.insert(key.end(), {static_cast<std::int64_t>(side.videos.size()), side.tokens, side.block,
                           std::bit_cast<std::int64_t>(side.sparsity), side.protect_first_frame ? 1 : 0});
    for (const auto& [start, latent] : side.videos)
        key.insert(key.end(), {start, latent.frames, latent.height, latent.width});
}

Key key_of(const TablesRequest& request, Device device) {
    Key key = {static_cast<std::int64_t>(device.kind),
               device.index,
               request.recognises ? 1 : 0,
               request.keeps_cells ? 1 : 0,
               request.mask_rows,
               request.mask_columns,
               std::bit_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(&memory_of(device)))};
    for (const HeadPattern* pattern : request.patterns)
        key.push_back(std::bit_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(pattern)));
    add_side(request.sides.q, key);
    add_side(request.sides.k, key);
    return key;
}

class Kept {
  public:
    explicit Kept(std::size_t most) : most_(most) {}

    /// Null where there are none.
    std::shared_ptr<const PlanTables> find(const Key& key) {
        const std::lock_guard lock(guard_);
        const auto found = std::find_if(tables_.begin(), tables_.end(),
                                        [&](const auto& entry) { return entry.first == key; });
        if (found == tables_.end()) return nullptr;
        tables_.splice(tables_.begin(), tables_, found);
        return found->second;
    }

    void keep(const Key& key, std::shared_ptr<const PlanTables> tables) {
        const std::lock_guard lock(guard_);
        tables_.emplace_front(key, std::move(tables));
        if (tables_.size() > most_) tables_.pop_back();
    }

  private:
    std::size_t most_;
    std::mutex guard_;
    std::list<std::pair<Key, std::shared_ptr<const PlanTables>>> tables_;  // the last one used first
};
struct KeptTables {
    Kept of_cpu{kMostKeptTables}, of_devices{kMostKeptOnDevices};
};
// Never destroyed: memory of a device may not outlive its driver, which may be gone when the process ends.
PerProcess<KeptTables>& kept_tables = *new PerProcess<KeptTables>;

}  // namespace

std::shared_ptr<const PlanTables> plan_tables(const TablesRequest& request, Device device) {
    const Key key = key_of(request, device);
    KeptTables& kept = kept_tables.get();
    Kept& mine = device == Device::cpu ? kept.of_cpu : kept.of_devices;
    if (auto found = mine.find(key)) return found;
    // Without the lock: who is asked meanwhile whether to stop may plan too. Of two that make the same, the
    // last one's are found from then on.
    auto made = make_tables(request, device);
    mine.keep(key, made);
    return made;
}

}  // namespace aerogel
