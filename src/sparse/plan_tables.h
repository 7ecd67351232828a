// What a plan needs that depends on sizes alone, not on q and k: cells, token orders, the masks of static
// patterns and the sample that recognition looks at, as arrays on the device that plans. They are kept for
// the calls to come.
#pragma once

#include <memory>
#include <vector>

#include "aerogel/tensor.h"
#include "kernels/planning.h"
#include "sparse/geometry.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

/// A tensor of bytes that holds these values, on that device.
template <typename T>
Tensor bytes_on(Device device, const std::vector<T>& values);
/// What such a tensor holds.
template <typename T>
const T* values_of(const Tensor& bytes) {
    return static_cast<const T*>(bytes.data());
}

/// Queries or keys.
struct SideTables {
    Cells cells;                     ///< here, as everything that is no Tensor
    std::vector<TokenOrder> orders;  ///< one per pattern; none: tokens as they lie
    std::int64_t blocks = 0;
    Tensor ranges;  ///< IndexRange per cell: its rows
    Tensor kept;    ///< u8 per cell: always kept
    Tensor reach;   ///< IndexRange per block: the cells that reach into it
    Tensor order;   ///< i32 [patterns, tokens], where there are orders
    Tensor parts;   ///< IndexRange per cell, where a given mask is finer: its rows (or columns) there
};

struct PlanTables {
    Device device;
    std::vector<const HeadPattern*> patterns;
    SideTables q, k;
    // Of static patterns.
    std::vector<BlockGrid> grids;        ///< here
    Tensor cells;                        ///< the same, one behind the other; with keeps_cells
    Tensor row_start, row_end, columns;  ///< lists of each pattern's blocks, as BlockListsArgs has them
    // Of patterns that heads are recognised among; the last pattern is dense.
    std::int64_t sampled_queries = 0, sampled_keys = 0;
    Tensor query_cells, key_cells;  ///< IndexRange of one token each
    Tensor sample_masks;            ///< u8 [choices(), queries, in_panels(keys)]

    /// Patterns but the last.
    std::int64_t choices() const { return static_cast<std::int64_t>(patterns.size()) - 1; }
};

/// What tables are made from. The patterns have the cells of the first.
struct TablesRequest {
    const SparseSides& sides;
    std::vector<const HeadPattern*> patterns;
    bool recognises = false;
    bool keeps_cells = false;                      ///< of static patterns
    std::int64_t mask_rows = 0, mask_columns = 0;  ///< of a given mask; 0: there is none
    int threads = 0;                               ///< at most so many of the pool make them; 0: all
};

/// Those that were used last are kept, kMostKeptTables of the CPU and kMostKeptOnDevices of other devices,
/// and with every plan that uses them.
std::shared_ptr<const PlanTables> plan_tables(const TablesRequest& request, Device device);
constexpr std::size_t kMostKeptTables = 4, kMostKeptOnDevices = 32;

}  // namespace aerogel
