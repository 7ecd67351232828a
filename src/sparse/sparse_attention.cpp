// The road of one call: check, decide (stay dense, or a pattern per head), lay the tokens out in the
// order of the pattern, run block-sparse attention, put the output back.
#include "aerogel/sparse_attention.h"

#include <array>
#include <chrono>
#include <cmath>
#include <memory>

#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "sparse/check.h"
#include "sparse/recognition.h"
#include "sparse/reorder.h"
#include "sparse/trace.h"

namespace aerogel {
namespace {

constexpr std::int64_t kLeastVideoBlocks = 32;
constexpr std::size_t kHeadTypes = 5;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string reason_to_stay_dense(const SparseOptions& options, const SparseGeometry& geometry) {
    if (options.type == SparseType::none) return "sparse type none";
    if (options.sparsity == 0.0) return "sparsity 0";
    if (geometry.video_blocks() < kLeastVideoBlocks) return "fewer than 32 video blocks";
    if (geometry.protected_end() >= geometry.text_begin()) return "every block is protected";
    return "";
}

SparseReport run_dense(const SparseArrays& call, const SparseOptions& options, std::vector<HeadReport> heads,
                       std::string because) {
    SparseReport report;
    report.heads = std::move(heads);
    report.dense_because = std::move(because);
    const auto start = Clock::now();
    attention(call.q, call.k, call.v, call.o,
              {.layout = options.layout, .mask = nullptr, .scale = options.scale});
    report.attention_seconds = seconds_since(start);
    return report;
}

// Layouts and static grids of the head types in use; heads of one type share them.
class Patterns {
  public:
    Patterns(const SparseGeometry& geometry, const std::vector<HeadReport>& heads) {
        for (const HeadReport& head : heads) {
            Entry& entry = entries_.at(static_cast<std::size_t>(head.type));
            if (entry.used) continue;
            entry.used = true;
            if (head.type == HeadType::dense) {
                const auto blocks = static_cast<std::size_t>(geometry.blocks());
                entry = {
                    true, {raster_order(geometry), raster_order(geometry)}, BlockGrid(blocks * blocks, 1)};
                continue;
            }
            const Pattern& pattern = pattern_of(head.type);
            entry.layout = pattern.layout(geometry);
            if (pattern.static_blocks != nullptr) entry.grid = pattern.static_blocks(geometry);
        }
    }

    const TokenLayout& layout(HeadType type) const {
        return entries_.at(static_cast<std::size_t>(type)).layout;
    }
    const BlockGrid& grid(HeadType type) const { return entries_.at(static_cast<std::size_t>(type)).grid; }

    OrderOfMap orders(const std::vector<HeadReport>& heads, TokenOrder TokenLayout::*side) const {
        OrderOfMap result;
        for (const HeadReport& head : heads) result.push_back(&(layout(head.type).*side));
        return result;
    }

  private:
    struct Entry {
        bool used = false;
        TokenLayout layout;
        BlockGrid grid;
    };
    std::array<Entry, kHeadTypes> entries_;
};

// Memory for the reordered copies. Fresh pages cost as much as the copying itself, so a thread keeps
// the memory of its last call unless that was large.
Tensor kept_bytes(std::int64_t bytes) {
    constexpr std::int64_t kLargestKept = std::int64_t{128} << 20;
    thread_local Tensor kept;
    if (kept.defined() && kept.count() >= bytes) return kept;
    Tensor fresh(DType::u8, {bytes});
    kept = bytes <= kLargestKept ? fresh : Tensor();
    return fresh;
}

// Reordered copies [batch, heads, tokens, head_dim] of q, k, v, and room for o.
struct Reordered {
    Tensor q, k, v, o;

    explicit Reordered(const HeadRows& like) {
        const Shape shape = {like.batch, like.heads, like.tokens, like.head_dim};
        const auto bytes = element_count(shape) * static_cast<std::int64_t>(size_of(like.dtype));
        const std::int64_t step = (bytes + 63) / 64 * 64;
        const auto memory = std::make_shared<Tensor>(kept_bytes(4 * step));
        auto* begin = static_cast<std::byte*>(memory->data());
        for (Tensor* tensor : {&q, &k, &v, &o}) {
            *tensor = Tensor(like.dtype, shape, begin, memory);
            begin += step;
        }
    }
};

HeadRows rows_of(const Tensor& tensor) {
    return {tensor.view(), AttentionLayout::bnsd};
}

// Masks that depend on the content, one grid per map.
std::vector<BlockGrid> content_grids(const Reordered& inside, const SparseGeometry& geometry,
                                     const std::vector<HeadReport>& heads) {
    const std::int64_t dim = inside.q.dim(3);
    const std::int64_t means = mean_count(geometry);
    const std::vector<float> q_means = block_means(rows_of(inside.q), geometry, false);
    const std::vector<float> k_means = block_means(rows_of(inside.k), geometry, true);
    std::vector<BlockGrid> grids(heads.size());
    parallel_for(static_cast<std::int64_t>(heads.size()), [&](std::int64_t map, int) {
        const auto index = static_cast<std::size_t>(map);
        const std::int64_t offset = map * means * dim;
        grids[index] = pattern_of(heads[index].type)
                           .content_blocks(geometry, {q_means.data() + offset, k_means.data() + offset, dim});
    });
    return grids;
}

BlockMask mask_of(const HeadRows& rows, const SparseGeometry& geometry,
                  const std::vector<const BlockGrid*>& grids) {
    BlockMask mask{rows.batch, rows.heads, rows.tokens, rows.tokens, geometry.block, geometry.block, {}, {}};
    const std::int64_t blocks = geometry.blocks();
    mask.row_start.push_back(0);
    for (const BlockGrid* grid : grids) {
        for (std::int64_t row = 0; row < blocks; ++row) {
            for (std::int64_t column = 0; column < blocks; ++column) {
                if ((*grid)[static_cast<std::size_t>(row * blocks + column)] != 0)
                    mask.columns.push_back(static_cast<std::int32_t>(column));
            }
            mask.row_start.push_back(static_cast<std::int64_t>(mask.columns.size()));
        }
    }
    return mask;
}

std::vector<HeadReport> head_types(const SparseArrays& call, const SparseOptions& options,
                                   const SparseGeometry& geometry) {
    const HeadRows q(call.q, options.layout);
    std::vector<HeadReport> heads(static_cast<std::size_t>(q.maps()), {HeadType::block_mean, 1.0, 1.0});
    if (options.type != SparseType::rf_v1) return heads;
    const float scale =
        options.scale > 0.0F ? options.scale : 1.0F / std::sqrt(static_cast<float>(q.head_dim));
    const auto recognised =
        recognise_heads(q, HeadRows(call.k, options.layout), geometry, scale, options.min_recall);
    for (std::size_t map = 0; map < heads.size(); ++map)
        heads[map] = {recognised[map].type, recognised[map].recall, 1.0};
    return heads;
}

bool all_dense(const std::vector<HeadReport>& heads) {
    for (const HeadReport& head : heads) {
        if (head.type != HeadType::dense) return false;
    }
    return true;
}

}  // namespace

SparseReport traced_sparse_attention(const SparseArrays& call, const SparseOptions& options,
                                     SparseTrace* trace) {
    num_threads();  // a wrong AEROGEL_NUM_THREADS is reported here, before work that cannot throw
    const SparseGeometry geometry = checked_geometry(call, options);
    const HeadRows q(call.q, options.layout);
    if (std::string because = reason_to_stay_dense(options, geometry); !because.empty())
        return run_dense(call, options, std::vector<HeadReport>(static_cast<std::size_t>(q.maps())),
                         std::move(because));
    auto start = Clock::now();
    SparseReport report;
    report.heads = head_types(call, options, geometry);
    if (all_dense(report.heads)) {
        const double recognition_seconds = seconds_since(start);
        report = run_dense(call, options, std::move(report.heads), "every head is under min_recall");
        report.predict_seconds = recognition_seconds;
        return report;
    }
    const Patterns patterns_in_use(geometry, report.heads);
    const OrderOfMap q_orders = patterns_in_use.orders(report.heads, &TokenLayout::q);
    const OrderOfMap k_orders = patterns_in_use.orders(report.heads, &TokenLayout::k);
    const Reordered inside(q);
    gather(q, q_orders, rows_of(inside.q));
    gather(HeadRows(call.k, options.layout), k_orders, rows_of(inside.k));
    gather(HeadRows(call.v, options.layout), k_orders, rows_of(inside.v));

    std::vector<BlockGrid> own_grids;
    if (options.type == SparseType::rf_v2) own_grids = content_grids(inside, geometry, report.heads);
    std::vector<const BlockGrid*> grids;
    for (std::size_t map = 0; map < report.heads.size(); ++map)
        grids.push_back(own_grids.empty() ? &patterns_in_use.grid(report.heads[map].type) : &own_grids[map]);
    const BlockMask mask = mask_of(q, geometry, grids);
    for (std::size_t map = 0; map < report.heads.size(); ++map)
        report.heads[map].density = mask.density(static_cast<std::int64_t>(map));
    report.predict_seconds = seconds_since(start);

    start = Clock::now();
    attention(inside.q, inside.k, inside.v, inside.o,
              {.layout = AttentionLayout::bnsd, .mask = &mask, .scale = options.scale});
    report.attention_seconds = seconds_since(start);

    start = Clock::now();
    scatter(rows_of(inside.o), q_orders, HeadRows(call.o, options.layout));
    report.predict_seconds += seconds_since(start);
    if (trace != nullptr) {
        trace->layouts.clear();
        for (const HeadReport& head : report.heads)
            trace->layouts.push_back(patterns_in_use.layout(head.type));
        trace->mask = mask;
    }
    return report;
}

SparseReport sparse_attention(const TensorView& q, const TensorView& k, const TensorView& v,
                              const TensorView& o, const SparseOptions& options) {
    return traced_sparse_attention({q, k, v, o}, options, nullptr);
}

}  // namespace aerogel
