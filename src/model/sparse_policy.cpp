// Masks change slowly from step to step (RainFusion 2, arXiv 2512.24086: "mask refresh"), so a plan may serve
// several steps.
#include "model/sparse_policy.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "base/clock.h"

namespace aerogel {
namespace {

std::vector<std::string> pinned_types(const SparseProfile& profile, const SelfAttention& call, int step) {
    std::vector<std::string> types = profile.head_types(call.block, step);
    const std::int64_t heads = call.arrays.q.dim(2);
    if (static_cast<std::int64_t>(types.size()) != heads) {
        throw InvalidArgument(fmt::format("[generate] the profile has {} heads in layer {}, the model has {}",
                                          types.size(), call.block, heads));
    }
    return types;
}

// Where the plan of this block is kept; null: it is not.
KeptSparsePlan* kept_plan(const SelfAttention& call, const TransformerStep& step) {
    if (step.sparse_plans == nullptr || step.context.timestep_index < 0 ||
        step.sparse->mask_refresh_steps <= 1 || step.sparse->profile)
        return nullptr;
    const auto block = static_cast<std::size_t>(call.block);
    if (step.sparse_plans->size() <= block) step.sparse_plans->resize(block + 1);
    return &(*step.sparse_plans)[block];
}

SparsePlan new_plan(const SelfAttention& call, const TransformerStep& step) {
    SparsePlanOptions options{.attention = sparse_options(step.sparse->format)};
    if (step.sparse->profile)
        options.head_types = pinned_types(*step.sparse->profile, call, step.context.timestep_index);
    return plan_sparse(call.arrays.q, call.arrays.k, step.sparse->pattern, {.latent = call.latent}, options);
}

SparseReport attend_by(const SparsePlan& plan, const SelfAttention& call, const AttentionOptions& options) {
    const auto start = Clock::now();
    attention(call.arrays, plan, options);
    return {plan.heads, plan.dense_because, plan.predicted, plan.seconds, seconds_since(start)};
}

}  // namespace

SparseReport run_sparse(const SelfAttention& call, const TransformerStep& step) {
    const AttentionFormat format = step.sparse->format;
    const bool as_module = format == AttentionFormat::none && call.quantized != nullptr;
    AttentionOptions options = as_module ? *call.quantized : sparse_options(format);
    options.call = step.context.call;
    const Tensor rotation = format == AttentionFormat::fp8 ? hadamard_matrix(call.arrays.q.dim(3)) : Tensor();
    if (rotation.defined()) options.q_rotation = options.k_rotation = rotation;
    KeptSparsePlan* kept = kept_plan(call, step);
    const int now = step.context.timestep_index;
    if (kept != nullptr && kept->step >= 0 && now >= kept->step &&
        now - kept->step < step.sparse->mask_refresh_steps) {
        SparseReport report = attend_by(kept->plan, call, options);
        report.predicted = false;
        report.predict_seconds = 0.0;
        return report;
    }
    SparsePlan plan = new_plan(call, step);
    SparseReport report = attend_by(plan, call, options);
    if (kept != nullptr && plan.dense_because.empty()) *kept = {now, std::move(plan)};
    return report;
}

}  // namespace aerogel
