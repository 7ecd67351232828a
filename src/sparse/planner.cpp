// Check, decide, list: the road of one problem.
#include "sparse/planner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "base/cancellation.h"
#include "base/clock.h"
#include "ops/machines.h"
#include "ops/planning.h"
#include "sparse/masks.h"
#include "sparse/plan_scratch.h"
#include "sparse/planned_arrays.h"
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

class Planner {
  public:
    Planner(const SparseProblem& problem, const SparseSides& sides, Device device)
        : problem_(problem),
          sides_(sides),
          device_(device),
          q_(problem.q, problem.layout()),
          k_(problem.k, problem.layout()),
          scale_(problem.options.attention.scale),
          stream_(problem.options.attention.call.stream) {
        if (scale_ <= 0.0F) scale_ = 1.0F / std::sqrt(static_cast<float>(q_.head_dim));
    }

    SparsePlan plan() {
        SparsePlan plan;
        plan.centroids = problem_.pattern.centroids;
        plan.dense_because = reason_to_stay_dense(problem_, sides_);
        if (plan.dense_because.empty()) {
            const auto start = Clock::now();
            plan.predicted =
                looks_at_content(problem_) || (has_static_heads() && problem_.options.head_types.empty());
            decide(plan);
            plan.seconds = seconds_since(start);
        } else {
            plan.heads.resize(static_cast<std::size_t>(q_.maps()));
        }
        if (problem_.options.keep_cells && !plan.dense_because.empty()) {
            const HeadPattern& pattern = cell_pattern(problem_);
            plan.cells = Tensor(DType::i8, cell_shape(pattern.cells(sides_.q), pattern.cells(sides_.k)));
            std::memset(plan.cells.mutable_data(), 1, plan.cells.bytes());
            plan.cells = plan.cells.to(problem_.q.device);
        }
        return plan;
    }

  private:
    bool has_static_heads() const { return cell_pattern(problem_).static_blocks != nullptr; }
    bool recognises() const { return problem_.row.recognises() && problem_.options.head_types.empty(); }
    Shape cell_shape(const Cells& q, const Cells& k) const {
        return {q_.batch, q_.heads, static_cast<std::int64_t>(q.size()), static_cast<std::int64_t>(k.size())};
    }

    void decide(SparsePlan& plan) {
        TablesRequest request = {sides_, {}, recognises()};
        request.threads = problem_.options.attention.call.threads;
        request.keeps_cells = has_static_heads() && problem_.options.keep_cells;
        if (const TensorView& mask = problem_.options.mask; mask.data != nullptr) {
            check_mask({q_, sides_, mask, cell_pattern(problem_), device_});
            request.mask_rows = mask.dim(2);
            request.mask_columns = mask.dim(3);
        }
        for (const HeadPattern* pattern : problem_.row.head_patterns()) request.patterns.push_back(pattern);
        if (problem_.row.recognises()) request.patterns.push_back(problem_.row.head_pattern("dense"));
        tables_ = plan_tables(request, device_);
        auto arrays = std::make_shared<PlanOnDevice>();
        arrays->facts =
            std::make_shared<HeadFacts>(tables_, q_.maps(), recognises(), problem_.row.recognises());
        arrays->facts->scores_of_map = static_cast<double>(q_.tokens) * static_cast<double>(k_.tokens);
        arrays->sizes = {q_.batch, q_.heads, q_.tokens, k_.tokens, sides_.q.block, sides_.k.block, {}, {}};
        run_operation_on(
            device_,
            [&] {
                if (problem_.row.recognises()) choose_heads(*arrays->facts);
                if (operation_stopped()) return;
                if (has_static_heads()) {
                    fan_out(*arrays);
                    if (problem_.options.keep_cells) place_static(*arrays->facts, plan);
                } else {
                    list_content(*arrays, plan);
                }
                if (!operation_stopped()) count_kept(*arrays);
            },
            problem_.options.attention.call.threads);
        if (device_ == Device::cpu) {
            read_plan(*arrays, plan);
        } else {
            name_heads(plan);
            plan.on_device = std::move(arrays);
        }
    }

    void choose_heads(HeadFacts& facts) const {
        void* const at = facts.bytes.mutable_data();
        if (recognises()) {
            std::optional<HeadRows> v;
            if (problem_.pattern.by_error) v.emplace(problem_.options.v, problem_.layout());
            recognise_heads({q_, k_, *tables_, scale_, problem_.pattern.min_recall,
                             problem_.options.attention.call, v ? &*v : nullptr},
                            {facts.recalls(at), facts.choice(at)});
            if (device_ == Device::cpu &&
                std::any_of(facts.recalls(at), facts.recalls(at) + facts.maps * tables_->choices(),
                            [](double recall) { return std::isnan(recall); }))
                fail_not_finite(q_, k_);
            return;
        }
        const std::vector<std::string>& given = problem_.options.head_types;
        for (std::int64_t map = 0; map < facts.maps; ++map) {
            const HeadPattern* pattern =
                problem_.row.head_pattern(given[static_cast<std::size_t>(map) % given.size()]);
            facts.choice(at)[map] = static_cast<std::int32_t>(
                std::find(tables_->patterns.begin(), tables_->patterns.end(), pattern) -
                tables_->patterns.begin());
        }
    }

    Tensor lists(std::int64_t of_each) const {
        return Tensor(DType::u8, {q_.maps() * tables_->q.blocks * of_each}, device_);
    }

    // Of static patterns; and the orders of all.
    void fan_out(PlannedArrays& arrays) const {
        FanOutArgs args;
        args.maps = q_.maps();
        args.q_blocks = tables_->q.blocks;
        args.q_len = q_.tokens;
        args.k_len = k_.tokens;
        args.stream = stream_;
        if (arrays.facts->chosen) args.choice = arrays.facts->choice(arrays.facts->bytes.data());
        if (has_static_heads()) {
            arrays.row_start = lists(8);
            arrays.row_end = lists(8);
            arrays.columns = tables_->columns;
            args.type_start = values_of<std::int64_t>(tables_->row_start);
            args.type_end = values_of<std::int64_t>(tables_->row_end);
            args.row_start = static_cast<std::int64_t*>(arrays.row_start.mutable_data());
            args.row_end = static_cast<std::int64_t*>(arrays.row_end.mutable_data());
        }
        if (tables_->q.order.defined() && device_ != Device::cpu) {
            arrays.q_order = Tensor(DType::u64, {q_.maps()}, device_);
            arrays.k_order = Tensor(DType::u64, {q_.maps()}, device_);
            args.q_orders = values_of<std::int32_t>(tables_->q.order);
            args.k_orders = values_of<std::int32_t>(tables_->k.order);
            args.q_order = static_cast<const std::int32_t**>(arrays.q_order.mutable_data());
            args.k_order = static_cast<const std::int32_t**>(arrays.k_order.mutable_data());
        }
        planning_kernels(device_).fan_out(args);
    }

    // Masks that come from the content or from the caller.
    void list_content(PlannedArrays& arrays, SparsePlan& plan) const {
        const Shape shape = cell_shape(tables_->q.cells, tables_->k.cells);
        std::optional<PlanScratch> scratch;
        std::uint8_t* grid = nullptr;
        if (problem_.options.keep_cells) {
            plan.cells = Tensor(DType::i8, shape, device_);
            grid = static_cast<std::uint8_t*>(plan.cells.mutable_data());
        } else {
            scratch.emplace(static_cast<std::size_t>(element_count(shape)), device_);
            grid = scratch->take<std::uint8_t>(element_count(shape));
        }
        if (problem_.options.mask.data != nullptr) {
            place_given(grid, shape);
        } else {
            ContentInput input{sides_,
                               *tables_,
                               problem_.pattern,
                               q_,
                               k_,
                               scale_,
                               problem_.options.attention.causal,
                               problem_.options.attention.call};
            if (tables_->q.order.defined()) {
                input.q.order = values_of<std::int32_t>(tables_->q.order);
                input.k.order = values_of<std::int32_t>(tables_->k.order);
            }
            cell_pattern(problem_).content_cells(input, grid);
        }
        arrays.row_start = lists(8);
        arrays.row_end = lists(8);
        arrays.columns = lists(4 * tables_->k.blocks);
        BlockListsArgs args;
        args.grid = grid;
        args.maps = q_.maps();
        args.rows = shape[2];
        args.columns_of_grid = shape[3];
        args.q_reach = values_of<IndexRange>(tables_->q.reach);
        args.k_reach = values_of<IndexRange>(tables_->k.reach);
        args.q_blocks = tables_->q.blocks;
        args.k_blocks = tables_->k.blocks;
        args.row_start = static_cast<std::int64_t*>(arrays.row_start.mutable_data());
        args.row_end = static_cast<std::int64_t*>(arrays.row_end.mutable_data());
        args.columns = static_cast<std::int32_t*>(arrays.columns.mutable_data());
        args.stream = stream_;
        planning_kernels(device_).block_lists(args);
        if (tables_->q.order.defined() && !operation_stopped()) fan_out(arrays);
    }

    void count_kept(PlannedArrays& arrays) const {
        KeptScoresArgs args;
        args.row_start = values_of<std::int64_t>(arrays.row_start);
        args.row_end = values_of<std::int64_t>(arrays.row_end);
        args.columns = values_of<std::int32_t>(arrays.columns);
        args.maps = q_.maps();
        args.q_blocks = tables_->q.blocks;
        args.k_blocks = tables_->k.blocks;
        args.q_len = q_.tokens;
        args.k_len = k_.tokens;
        args.block_q = sides_.q.block;
        args.block_k = sides_.k.block;
        args.kept = arrays.facts->kept(arrays.facts->bytes.mutable_data());
        args.stream = stream_;
        planning_kernels(device_).kept_scores(args);
    }

    // The cells of the pattern that each head has.
    void place_static(const HeadFacts& facts, SparsePlan& plan) const {
        const Shape shape = cell_shape(tables_->q.cells, tables_->k.cells);
        plan.cells = Tensor(DType::i8, shape, device_);
        PlaceCellsArgs args = cells_to(static_cast<std::uint8_t*>(plan.cells.mutable_data()), shape);
        args.from = values_of<std::uint8_t>(tables_->cells);
        args.from_rows = args.rows;
        args.from_columns = args.columns;
        if (facts.chosen) args.choice = facts.choice(facts.bytes.data());
        planning_kernels(device_).place_cells(args);
    }

    void place_given(std::uint8_t* grid, const Shape& shape) const {
        const TensorView& mask = problem_.options.mask;
        PlaceCellsArgs args = cells_to(grid, shape);
        args.from = static_cast<const std::uint8_t*>(mask.data);
        args.of_batch = mask.dim(0) == 1 ? 0 : mask.dim(1);
        args.of_head = mask.dim(1) == 1 ? 0 : 1;
        args.from_rows = mask.dim(2);
        args.from_columns = mask.dim(3);
        if (tables_->q.parts.defined()) args.q_parts = values_of<IndexRange>(tables_->q.parts);
        if (tables_->k.parts.defined()) args.k_parts = values_of<IndexRange>(tables_->k.parts);
        planning_kernels(device_).place_cells(args);
    }

    PlaceCellsArgs cells_to(std::uint8_t* grid, const Shape& shape) const {
        PlaceCellsArgs args;
        args.heads = q_.heads;
        args.grid = grid;
        args.maps = q_.maps();
        args.rows = shape[2];
        args.columns = shape[3];
        args.stream = stream_;
        return args;
    }

    // What is known before anybody reads what the device found.
    void name_heads(SparsePlan& plan) const {
        SparseHead head;
        head.type = problem_.row.recognises() ? "" : cell_pattern(problem_).name;
        head.density = std::numeric_limits<double>::quiet_NaN();
        plan.heads.assign(static_cast<std::size_t>(q_.maps()), head);
    }

    const SparseProblem& problem_;
    const SparseSides& sides_;
    Device device_;
    HeadRows q_, k_;
    float scale_;
    void* stream_;
    std::shared_ptr<const PlanTables> tables_;
};

}  // namespace

bool looks_at_content(const SparseProblem& problem) {
    if (problem.options.mask.data != nullptr) return false;
    if (problem.row.recognises()) return problem.options.head_types.empty();
    return cell_pattern(problem).content_cells != nullptr;
}

Device planning_device(const SparseProblem& problem) {
    const Device device = problem.q.device;
    if (!has_planning(device)) return Device::cpu;
    if (const TensorView& mask = problem.options.mask; mask.data != nullptr)
        return mask.device == device ? device : Device::cpu;
    const bool can = !cell_pattern(problem).strides || planning_kernels(device).strided_products != nullptr;
    return looks_at_content(problem) && can ? device : Device::cpu;
}

SparsePlan make_plan(const SparseProblem& problem, const SparseSides& sides, Device device) {
    return Planner(problem, sides, device).plan();
}

}  // namespace aerogel
