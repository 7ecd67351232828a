// What every family does around a layer: the step's hooks, and its say in attention.
#include "model/slots.h"

#include "aerogel/attention.h"
#include "model/sparse_policy.h"
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

}  // namespace

void run_linear(const LinearSlot& slot, const TensorView& x, const MutableView& y,
                const TransformerStep& step) {
    if (x.dim(0) == 0) return;
    if (step.on_linear_input) step.on_linear_input(slot.name, OnHost(x).view());
    slot.layer->forward(x, y, step.context);
}

void run_attention(const AttentionSlot& slot, const ModuleCall& call, const TransformerStep& step) {
    if (step.on_attention_input) {
        const OnHost q(call.q), k(call.k), v(call.v);
        step.on_attention_input(
            {slot.name, call.block, call.is_self, q.view(), k.view(), v.view(), call.latent});
    }
    const int index = step.context.timestep_index;
    AttentionOptions options = attention_options(slot.quantization, step.timestep_policy, index);
    options.call = step.context.call;
    if (!call.is_self || step.sparse == nullptr || !step.sparse->is_sparse(call.block, index)) {
        attention(call.q, call.k, call.v, call.o, options);
        return;
    }
    const bool is_float = options.format == AttentionFormat::none;
    const SparseReport report = run_sparse(
        {{call.q, call.k, call.v, call.o}, call.latent, call.block, is_float ? nullptr : &options}, step);
    if (step.on_sparse) step.on_sparse(call.block, report);
}

}  // namespace aerogel
