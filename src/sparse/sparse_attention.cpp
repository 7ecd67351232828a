// The two halves of a sparse call. From q and k to a plan: check, decide (stay dense, or a pattern per head),
// lay the tokens out, and collect the blocks that the pattern, the content or a given mask keeps. And from a
// plan to the output, in the format that the options say.
#include "aerogel/sparse_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "aerogel/error.h"
#include "base/clock.h"
#include "base/thread_pool.h"
#include "base/timed.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "sparse/check.h"
#include "sparse/masks.h"
#include "sparse/recognition.h"

namespace aerogel {
namespace {

constexpr std::int64_t kLeastVideoBlocks = 32;

// The pattern whose cells stand for those of all heads.
const HeadPattern& cell_pattern(const SparseProblem& problem) {
    return *problem.row.heads[0];
}

std::string reason_to_stay_dense(const SparseProblem& problem, const SparseSides& sides) {
    const SparsePattern& pattern = problem.pattern;
    const SparseTypeRow& row = problem.row;
    if (problem.options.mask.data != nullptr) return "";
    if (!row.predicts()) return "sparse type " + std::string(row.name);
    const bool by_share = row.looks_at("cdf_threshold");
    if (pattern.sparsity == 0.0 && !(by_share && pattern.cdf_threshold < 1.0))
        return by_share ? "sparsity 0 and cdf_threshold 1" : "sparsity 0";
    if (!row.needs_video()) return "";
    if (sides.q.video_blocks() < kLeastVideoBlocks) return "fewer than 32 video blocks";
    const HeadPattern& cells = cell_pattern(problem);
    if (all_kept(cells.cells(sides.q)) || all_kept(cells.cells(sides.k))) return "every block is protected";
    return "";
}

// The road of one problem that is to be sparse.
class Planner {
  public:
    Planner(const SparseProblem& problem, const SparseSides& sides)
        : problem_(problem),
          sides_(sides),
          q_(problem.q, problem.layout()),
          k_(problem.k, problem.layout()),
          scale_(problem.options.attention.scale) {
        if (scale_ <= 0.0F) scale_ = 1.0F / std::sqrt(static_cast<float>(q_.head_dim));
    }

    SparsePlan plan() {
        SparsePlan plan;
        plan.centroids = problem_.pattern.centroids;
        plan.dense_because = reason_to_stay_dense(problem_, sides_);
        if (plan.dense_because.empty()) {
            const auto start = Clock::now();
            choose_heads(plan);
            if (plan.dense_because.empty()) {
                lay_out(plan);
                choose_blocks(plan);
            }
            plan.seconds = seconds_since(start);
        } else {
            plan.heads.resize(static_cast<std::size_t>(q_.maps()));
        }
        if (problem_.options.keep_cells && !plan.dense_because.empty()) {
            const HeadPattern& pattern = cell_pattern(problem_);
            const BlockGrid full(pattern.cells(sides_.q).size() * pattern.cells(sides_.k).size(), 1);
            plan.cells = mask_tensor(q_, GridOfMap(plan.heads.size(), &full), sides_, pattern);
        }
        return plan;
    }

  private:
    void choose_heads(SparsePlan& plan) const {
        const std::vector<std::string>& given = problem_.options.head_types;
        plan.predicted = problem_.options.mask.data == nullptr && given.empty();
        if (problem_.row.recognises() && given.empty()) {
            plan.heads =
                recognise_heads({q_, k_, problem_.row, scale_, problem_.pattern.min_recall}, sides_.q);
        } else {
            plan.heads.resize(static_cast<std::size_t>(q_.maps()));
            for (std::size_t map = 0; map < plan.heads.size(); ++map) {
                plan.heads[map].type = given.empty()
                                           ? cell_pattern(problem_).name
                                           : problem_.row.head_pattern(given[map % given.size()])->name;
            }
        }
        const bool all_dense = std::all_of(plan.heads.begin(), plan.heads.end(),
                                           [](const SparseHead& head) { return head.type == "dense"; });
        if (all_dense)
            plan.dense_because =
                given.empty() ? "every head is under min_recall" : "every head is given as dense";
    }

    const HeadPattern& pattern_of(const SparseHead& head) const {
        return *problem_.row.head_pattern(head.type);
    }

    // Heads of one pattern share their orders.
    void lay_out(SparsePlan& plan) {
        for (const SparseHead& head : plan.heads) {
            const HeadPattern& pattern = pattern_of(head);
            const auto found = std::find(in_use_.begin(), in_use_.end(), &pattern);
            if (found == in_use_.end()) {
                if (pattern.q_order != nullptr)
                    plan.orders.push_back({pattern.q_order(sides_.q), pattern.k_order(sides_.k)});
                if (pattern.static_blocks != nullptr)
                    static_grids_.push_back(pattern.static_blocks(sides_.q));
            }
            plan.order_of.push_back(static_cast<std::size_t>(found - in_use_.begin()));
            if (found == in_use_.end()) in_use_.push_back(&pattern);
        }
    }

    // Masks that come from the content or from the caller; empty where all are static.
    std::vector<BlockGrid> own_grids(const SparsePlan& plan) const {
        const HeadPattern& pattern = cell_pattern(problem_);
        if (problem_.options.mask.data != nullptr)
            return given_grids(q_, sides_, problem_.options.mask, pattern);
        if (pattern.content_blocks == nullptr) return {};
        ContentInput input{sides_, problem_.pattern, q_, k_, scale_, problem_.options.attention.causal};
        if (!plan.orders.empty()) {
            input.q.order = plan.orders[0].q.data();
            input.k.order = plan.orders[0].k.data();
        }
        return pattern.content_blocks(input);
    }

    void choose_blocks(SparsePlan& plan) const {
        const HeadPattern& pattern = cell_pattern(problem_);
        const std::vector<BlockGrid> own = own_grids(plan);
        GridOfMap grids;
        for (std::size_t map = 0; map < plan.heads.size(); ++map)
            grids.push_back(own.empty() ? &static_grids_[plan.order_of[map]] : &own[map]);
        plan.mask = kernel_mask(q_, sides_, pattern, grids);
        if (problem_.options.keep_cells) plan.cells = mask_tensor(q_, grids, sides_, pattern);
        for (std::size_t map = 0; map < plan.heads.size(); ++map)
            plan.heads[map].density = plan.mask.density(static_cast<std::int64_t>(map));
    }

    const SparseProblem& problem_;
    const SparseSides& sides_;
    HeadRows q_, k_;
    float scale_;
    std::vector<const HeadPattern*> in_use_;
    std::vector<BlockGrid> static_grids_;  // of the patterns in use, when theirs are static
};

}  // namespace

double density_of(const std::vector<SparseHead>& heads) {
    if (heads.empty()) return 1.0;
    double sum = 0.0;
    for (const SparseHead& head : heads) sum += head.density;
    return sum / static_cast<double>(heads.size());
}

namespace {

Tensor copied_to_host(const TensorView& x, const Context& context) {
    Tensor dense(x.dtype, x.shape, x.device);
    copy(x, dense, context);
    return dense.to(Device::cpu);
}

}  // namespace

SparsePlan plan_sparse(const TensorView& q, const TensorView& k, const SparsePattern& pattern,
                       const VideoLayout& video, const SparsePlanOptions& options) {
    const SparseTypeRow& row = sparse_type_row(pattern.type);
    if (q.shape.size() == 3 && k.shape.size() == 3) {
        SparsePlanOptions of_packed = options;
        of_packed.attention.layout = AttentionLayout::bsnd;
        return plan_sparse(batch_of_one(q), batch_of_one(k), pattern, video, of_packed);
    }
    const SparseProblem problem{q, k, pattern, video, options, row};
    const SparseSides sides = checked_sides(problem);
    if (q.device != Device::cpu) {  // plans are made on the CPU
        const Tensor q_here = copied_to_host(q, options.attention.call),
                     k_here = copied_to_host(k, options.attention.call);
        return plan_sparse(q_here, k_here, pattern, video, options);
    }
    const Timed timed({.op = "plan_sparse"});
    SparsePlan plan;
    run_operation([&] { plan = Planner(problem, sides).plan(); }, options.attention.call.threads);
    return plan;
}

// --- what a plan says, computed

namespace {

TokenOrders orders_of(const SparsePlan& plan) {
    TokenOrders orders;
    if (plan.orders.empty()) return orders;
    for (const std::size_t index : plan.order_of) {
        orders.q.push_back(plan.orders[index].q.data());
        orders.k.push_back(plan.orders[index].k.data());
    }
    return orders;
}

}  // namespace

AttentionFormat sparse_format_from(std::string_view precision) {
    if (precision == "bf16") return AttentionFormat::none;
    constexpr std::array kFormats = {AttentionFormat::none, AttentionFormat::fp8, AttentionFormat::mix,
                                     AttentionFormat::int8, AttentionFormat::mxfp4};
    std::string known;
    for (const AttentionFormat format : kFormats) {
        if (to_string(format) == precision) return format;
        known += (known.empty() ? "" : ", ") + std::string(to_string(format));
    }
    throw InvalidArgument(
        fmt::format("[sparse_attention] precision must be one of {}, got \"{}\"", known, precision));
}

AttentionOptions sparse_options(AttentionFormat format) {
    AttentionOptions options;
    options.format = format;
    options.smooth_k = format == AttentionFormat::none || format == AttentionFormat::int8;
    return options;
}

bool rotates_sparse_calls(AttentionFormat format) {
    return format == AttentionFormat::fp8 || format == AttentionFormat::mxfp4;
}

Tensor hadamard_matrix(std::int64_t head_dim) {
    const std::int64_t order = head_dim & -head_dim;
    Tensor matrix = Tensor::zeros(DType::f32, {head_dim, head_dim});
    auto* const to = matrix.mutable_as<float>();
    const float size = 1.0F / std::sqrt(static_cast<float>(order));
    for (std::int64_t row = 0; row < head_dim; ++row) {
        for (std::int64_t i = 0; i < order; ++i) {
            const auto common = static_cast<std::uint64_t>(row % order & i);
            to[row * head_dim + row / order * order + i] = std::popcount(common) % 2 == 0 ? size : -size;
        }
    }
    return matrix;
}

void attention(const AttentionArrays& arrays, const SparsePlan& plan, const AttentionOptions& options) {
    const auto& [q, k, v, o] = arrays;
    AttentionOptions how = options;
    if (q.shape.size() == 3 && k.shape.size() == 3 && v.shape.size() == 3 && o.shape.size() == 3) {
        how.layout = AttentionLayout::bsnd;
        attention({batch_of_one(q), batch_of_one(k), batch_of_one(v), batch_of_one(o)}, plan, how);
        return;
    }
    check_arrays(arrays, options.layout);
    check_plan(arrays, plan, options);
    how.mask = plan.dense_because.empty() ? &plan.mask : nullptr;
    how.centroids = options.centroids || plan.centroids;
    attention({attention_op(how), q, k, v, o}, how, orders_of(plan));
}

}  // namespace aerogel
