// What planning decided, as arrays where q and k lie: lists of blocks and token orders that kernels read
// there, and the facts that the host reads when somebody asks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "aerogel/sparse_attention.h"
#include "sparse/plan_tables.h"

namespace aerogel {

/// Of each head: its recalls, the scores that are computed, its pattern.
struct HeadFacts {
    std::shared_ptr<const PlanTables> tables;
    std::int64_t maps = 0;
    double scores_of_map = 0.0;  ///< q_len * k_len
    bool recognised = false;     ///< there are recalls
    bool chosen = false;         ///< heads have patterns of their own, else the first
    Tensor bytes;                ///< one piece, so that one copy brings it

    HeadFacts() = default;
    HeadFacts(std::shared_ptr<const PlanTables> of, std::int64_t maps, bool recognised, bool chosen);
    /// Places in `bytes`, or in a copy of it.
    double* recalls(const void* at) const;       ///< [maps, tables->choices()]
    std::int64_t* kept(const void* at) const;    ///< [maps]
    std::int32_t* choice(const void* at) const;  ///< [maps]

    /// Waits for the device.
    std::vector<SparseHead> heads() const;
};

struct PlannedArrays {
    std::shared_ptr<HeadFacts> facts;
    BlockMask sizes;  ///< without rows
    /// Lists as MaskRows has them, i64 [maps, q_blocks] and i32, as bytes.
    Tensor row_start, row_end, columns;
    /// Addresses of the order of each map of q; not on the CPU, and not where tokens stay as they lie.
    Tensor q_order, k_order;
};

struct PlanOnDevice : PlannedArrays {};

/// Why a call stays dense whose heads are these; empty: it does not.
std::string dense_because(const HeadFacts& facts, const std::vector<SparseHead>& heads);

/// Fills everything of the plan that these arrays say. Waits for the device.
void read_plan(const PlannedArrays& arrays, SparsePlan& plan);

}  // namespace aerogel
