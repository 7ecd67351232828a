// The road of one call: check, decide (stay dense, or a pattern per head), then block-sparse attention over
// the tokens in the order of the pattern, which the kernels read and write where they lie.
#include "aerogel/sparse_attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/clock.h"
#include "sparse/check.h"
#include "sparse/masks.h"
#include "sparse/patterns_in_use.h"
#include "sparse/precision.h"
#include "sparse/recognition.h"
#include "sparse/types.h"

namespace aerogel {
namespace {

constexpr std::int64_t kLeastVideoBlocks = 32;

// Heads of one call have patterns with the same cells: this one's stand for all.
const Pattern& cell_pattern(const SparseOptions& options) {
    const HeadType head = sparse_type_row(options.type).head;
    return pattern_of(head == HeadType::dense ? HeadType::spatial : head);
}

std::string reason_to_stay_dense(const SparseOptions& options, const SparseSides& sides) {
    if (options.mask.data != nullptr) return "";
    if (options.type == SparseType::none) return "sparse type none";
    if (options.type == SparseType::ada_bsa)
        return options.sparsity == 0.0 && options.cdf_threshold == 1.0 ? "sparsity 0 and cdf_threshold 1"
                                                                       : "";
    if (options.sparsity == 0.0) return "sparsity 0";
    if (sides.q.video_blocks() < kLeastVideoBlocks) return "fewer than 32 video blocks";
    const Pattern& pattern = cell_pattern(options);
    if (all_kept(pattern.cells(sides.q)) || all_kept(pattern.cells(sides.k)))
        return "every block is protected";
    return "";
}

SparseReport run_dense(const SparseArrays& call, const SparseOptions& options, const SparseSides& sides,
                       SparseReport report) {
    const auto start = Clock::now();
    attend(call, options, nullptr, {});
    report.attention_seconds = seconds_since(start);
    if (options.return_mask) {
        const Pattern& pattern = cell_pattern(options);
        const BlockGrid full(pattern.cells(sides.q).size() * pattern.cells(sides.k).size(), 1);
        report.mask = mask_tensor(HeadRows(call.q, options.layout), GridOfMap(report.heads.size(), &full),
                                  sides, pattern);
    }
    return report;
}

std::vector<HeadReport> head_types(const SparseArrays& call, const SparseOptions& options,
                                   const SparseGeometry& geometry) {
    const HeadRows q(call.q, options.layout);
    std::vector<HeadReport> heads(static_cast<std::size_t>(q.maps()),
                                  {sparse_type_row(options.type).head, 1.0, 1.0, {}});
    if (options.type != SparseType::rf_v1) return heads;
    if (!options.head_types.empty()) {
        for (std::size_t map = 0; map < heads.size(); ++map)
            heads[map].type = options.head_types[map % options.head_types.size()];
        return heads;
    }
    const HeadRows k = HeadRows(call.k, options.layout).repeated(q.heads);
    const auto recognised = recognise_heads(q, k, geometry, options.scale, options.min_recall);
    for (std::size_t map = 0; map < heads.size(); ++map) {
        const Recognition& head = recognised[map];
        if (std::isnan(head.recall)) fail_not_finite(call, options.layout);
        heads[map] = {head.type, head.recall, 1.0, head.recalls};
    }
    return heads;
}

bool all_dense(const std::vector<HeadReport>& heads) {
    return std::all_of(heads.begin(), heads.end(),
                       [](const HeadReport& head) { return head.type == HeadType::dense; });
}

// Masks that come from the content or from the caller; empty where all are static.
std::vector<BlockGrid> own_grids(const SparseArrays& call, const SparseOptions& options,
                                 const SparseSides& sides, const TokenOrders& orders) {
    const Pattern& pattern = cell_pattern(options);
    const HeadRows q = HeadRows(call.q, options.layout).ordered(orders.q);
    if (options.mask.data != nullptr) return given_grids(q, sides, options, pattern);
    if (pattern.content_blocks == nullptr) return {};
    const HeadRows k = HeadRows(call.k, options.layout).repeated(q.heads).ordered(orders.k);
    return pattern.content_blocks({sides, options, call, q, k});
}

void fill_trace(SparseTrace* trace, const BlockMask& mask, const PatternsInUse& patterns,
                const std::vector<HeadReport>& heads) {
    if (trace == nullptr) return;
    trace->mask = mask;
    trace->layouts.clear();
    for (const HeadReport& head : heads) {
        TokenLayout& layout = trace->layouts.emplace_back(patterns.layout(head.type));
        if (!layout.q.empty()) continue;
        layout.q.resize(static_cast<std::size_t>(mask.q_len));
        layout.k.resize(static_cast<std::size_t>(mask.k_len));
        std::iota(layout.q.begin(), layout.q.end(), 0);
        std::iota(layout.k.begin(), layout.k.end(), 0);
    }
}

// The sparse road, once the type of each head is known.
void run_sparse(const SparseArrays& call, const SparseOptions& options, const SparseSides& sides,
                SparseReport& report, SparseTrace* trace) {
    auto start = Clock::now();
    const PatternsInUse in_use(sides, report.heads);
    const TokenOrders orders = in_use.orders(report.heads);
    const std::vector<BlockGrid> own = own_grids(call, options, sides, orders);
    GridOfMap grids;
    for (std::size_t map = 0; map < report.heads.size(); ++map)
        grids.push_back(own.empty() ? &in_use.grid(report.heads[map].type) : &own[map]);
    const HeadRows q(call.q, options.layout);
    const Pattern& pattern = cell_pattern(options);
    const BlockMask mask = kernel_mask(q, sides, pattern, grids);
    if (options.return_mask) report.mask = mask_tensor(q, grids, sides, pattern);
    for (std::size_t map = 0; map < report.heads.size(); ++map)
        report.heads[map].density = mask.density(static_cast<std::int64_t>(map));
    report.predict_seconds += seconds_since(start);

    start = Clock::now();
    attend(call, options, &mask, orders);
    report.attention_seconds = seconds_since(start);
    fill_trace(trace, mask, in_use, report.heads);
}

// [tokens, heads, head_dim] as a batch of one.
TensorView batch_of_one(const TensorView& packed) {
    TensorView view = packed;
    view.shape.insert(view.shape.begin(), 1);
    if (packed.strides.size() == 3)
        view.strides.insert(view.strides.begin(), packed.shape[0] * packed.strides[0]);
    return view;
}

}  // namespace

SparseReport traced_sparse_attention(const SparseArrays& call, const SparseOptions& given,
                                     SparseTrace* trace) {
    const SparseSides sides = checked_sides(call, given);
    SparseOptions options = given;
    if (options.scale <= 0.0F) options.scale = 1.0F / std::sqrt(static_cast<float>(call.q.dim(3)));
    SparseReport report;
    report.dense_because = reason_to_stay_dense(options, sides);
    if (!report.dense_because.empty()) {
        report.heads.resize(static_cast<std::size_t>(HeadRows(call.q, options.layout).maps()));
        return run_dense(call, options, sides, std::move(report));
    }
    const auto start = Clock::now();
    report.heads = head_types(call, options, sides.q);
    report.predicted = options.mask.data == nullptr && options.head_types.empty();
    report.predict_seconds = seconds_since(start);
    if (all_dense(report.heads)) {
        report.dense_because =
            options.head_types.empty() ? "every head is under min_recall" : "every head is given as dense";
        return run_dense(call, options, sides, std::move(report));
    }
    run_sparse(call, options, sides, report, trace);
    return report;
}

SparseReport sparse_attention(const TensorView& q, const TensorView& k, const TensorView& v,
                              const TensorView& o, const SparseOptions& options) {
    const bool packed =
        q.shape.size() == 3 && k.shape.size() == 3 && v.shape.size() == 3 && o.shape.size() == 3;
    if (!packed) return traced_sparse_attention({q, k, v, o}, options, nullptr);
    SparseOptions of_packed = options;
    of_packed.layout = AttentionLayout::bsnd;
    return traced_sparse_attention({batch_of_one(q), batch_of_one(k), batch_of_one(v), batch_of_one(o)},
                                   of_packed, nullptr);
}

}  // namespace aerogel
