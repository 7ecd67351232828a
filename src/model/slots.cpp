// What every family does around a layer: the step's hooks, and its say in attention.
#include "model/slots.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/error.h"
#include "base/clock.h"
#include "ops/elementwise.h"
#include "quant/attention.h"

namespace aerogel {
namespace {

// What hooks are shown: the array, or a copy on the CPU.
class OnHost {
  public:
    explicit OnHost(const TensorView& view) : view_(view) {
        if (view.device == Device::cpu) return;
        Tensor dense(view.dtype, view.shape, view.device);
        copy(view, dense);
        copy_ = dense.to(Device::cpu);
        view_ = copy_;
    }
    const TensorView& view() const { return view_; }

  private:
    TensorView view_;
    Tensor copy_;
};

// --- sparse self-attention: planned anew, by a plan of an earlier step, or with the head types of a profile.
// Masks change slowly from step to step (RainFusion 2, arXiv 2512.24086: "mask refresh"), so a plan may serve
// several.

// Where the plan of this block is kept; null: it is not.
KeptSparsePlan* kept_plan(const ModuleCall& call, const TransformerStep& step) {
    if (step.sparse_plans == nullptr || step.context.timestep_index < 0 ||
        step.sparse->mask_refresh_steps <= 1 || step.sparse->profile)
        return nullptr;
    const auto block = static_cast<std::size_t>(call.block);
    if (step.sparse_plans->size() <= block) step.sparse_plans->resize(block + 1);
    return &(*step.sparse_plans)[block];
}

SparsePlan new_plan(const ModuleCall& call, const TransformerStep& step) {
    SparsePlanOptions options{.attention = sparse_options(step.sparse->format)};
    options.attention.call = step.context.call;
    options.v = call.v;
    if (step.sparse->profile)
        options.head_types =
            pinned_types(*step.sparse->profile, call.block, step.context.timestep_index, call.q.dim(2));
    const VideoLayout layout = {
        .latent = call.latent, .txt_len = call.text_len, .txt_first = call.text_first};
    return plan_sparse(call.q, call.k, step.sparse->pattern, layout, options);
}

SparseReport attend_by(const SparsePlan& plan, const ModuleCall& call, const AttentionOptions& options) {
    const auto start = Clock::now();
    attention({call.q, call.k, call.v, call.o}, plan, options);
    return {plan.heads,   plan.dense_because,   plan.predicted,
            plan.seconds, seconds_since(start), facts_of(plan)};
}

// `module`: how it computes without a format of the sparse calls' own. Keeps the plan in step.sparse_plans.
// InvalidArgument when the profile has other layers or heads than the model.
SparseReport run_sparse(const ModuleCall& call, const AttentionOptions& module, const TransformerStep& step) {
    const AttentionFormat format = step.sparse->format;
    AttentionOptions options = format == AttentionFormat::none ? module : sparse_options(format);
    options.call = step.context.call;
    Tensor rotation;
    if (rotates_sparse_calls(format)) rotation = hadamard_matrix(call.q.dim(3)).to(call.q.device);
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

}  // namespace

std::vector<std::string> pinned_types(const SparseProfile& profile, int block, int step, std::int64_t heads) {
    std::vector<std::string> types = profile.head_types(block, step);
    if (static_cast<std::int64_t>(types.size()) == heads) return types;
    throw InvalidArgument(fmt::format("[generate] the profile has {} heads in layer {}, the model has {}",
                                      types.size(), block, heads));
}

void run_linear(const LinearSlot& slot, const TensorView& x, const MutableView& y,
                const TransformerStep& step) {
    if (x.dim(0) == 0) return;
    if (step.on_linear_input) step.on_linear_input(slot.name, OnHost(x).view());
    slot.layer->forward(x, y, step.context);
}

Tensor run_linear(const LinearSlot& slot, const TensorView& x, const TransformerStep& step) {
    Tensor y(DType::f32, {x.dim(0), slot.layer->out_features()}, x.device);
    run_linear(slot, x, y, step);
    return y;
}

void show_block_output(int block, const Tensor& hidden, std::int64_t items, const TransformerStep& step) {
    if (!step.on_block_output) return;
    const Tensor shown = hidden.reshaped({items, hidden.dim(0) / items, hidden.dim(1)});
    step.on_block_output(block, shown.to(Device::cpu));
}

void run_attention(const AttentionSlot& slot, const ModuleCall& call, const TransformerStep& step) {
    if (step.on_attention_input) {
        const OnHost q(call.q), k(call.k), v(call.v);
        step.on_attention_input({slot.name, call.block, call.is_self, q.view(), k.view(), v.view(),
                                 call.latent, call.text_len, call.text_first});
    }
    const int index = step.context.timestep_index;
    AttentionOptions options = attention_options(slot.quantization, step.timestep_policy, index);
    options.call = step.context.call;
    if (!call.is_self || step.sparse == nullptr || !step.sparse->is_sparse(call.block, index)) {
        attention(call.q, call.k, call.v, call.o, options);
        return;
    }
    const SparseReport report = run_sparse(call, options, step);
    if (step.on_sparse) step.on_sparse(call.block, report);
}

}  // namespace aerogel
