// The checks and their messages.
#include "ops/attention_checks.h"

#include <array>
#include <cmath>

#include "aerogel/error.h"

namespace aerogel {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;

void check_view(const char* name, const TensorView& view, const AttentionViews& views) {
    const std::string prefix = std::string(name) + " must ";
    if (view.device != Device::cpu) fail_attention(prefix + "be on the CPU", views);
    if (view.shape.size() != 4) fail_attention(prefix + "have 4 axes", views);
    if (view.dtype != views.q.dtype) fail_attention(prefix + "have the dtype of q", views);
    if (!view.strides.empty() && view.strides.size() != 4) fail_attention(prefix + "have 4 strides", views);
    if (view.shape[3] > 1 && strides_of(view)[3] != 1)
        fail_attention(prefix + "be contiguous in its last axis", views);
    if (view.count() != 0 && view.data == nullptr) fail_attention(prefix + "have data", views);
}

/// [batch, heads, tokens, head_dim] of a view in either layout.
std::array<std::int64_t, 4> sizes(const TensorView& view, AttentionLayout layout) {
    const bool bnsd = layout == AttentionLayout::bnsd;
    return {view.dim(0), view.dim(bnsd ? 1 : 2), view.dim(bnsd ? 2 : 1), view.dim(3)};
}

AttentionProblem check_shapes(const AttentionViews& views, AttentionLayout layout) {
    if (views.q.dtype != DType::f32 && views.q.dtype != DType::bf16)
        fail_attention("q must be f32 or bf16", views);
    check_view("q", views.q, views);
    check_view("k", views.k, views);
    check_view("v", views.v, views);
    check_view("o", views.o, views);
    const auto q = sizes(views.q, layout);
    const auto k = sizes(views.k, layout);
    const bool heads_fit = k[1] == q[1] || (k[1] > 0 && q[1] % k[1] == 0);
    if (k[0] != q[0] || !heads_fit || k[3] != q[3])
        fail_attention("k must have the batch and head_dim of q, and its heads or a divisor of them", views);
    if (sizes(views.v, layout) != k) fail_attention("v must have the shape of k", views);
    if (sizes(views.o, layout) != q) fail_attention("o must have the shape of q", views);
    if (q[3] < 1 || q[3] > kMaxHeadDim)
        fail_attention("head_dim must be 1..256, got " + std::to_string(q[3]), views);
    AttentionProblem problem;
    problem.batch = q[0];
    problem.heads = q[1];
    problem.q_len = q[2];
    problem.k_len = k[2];
    problem.head_dim = q[3];
    problem.dtype = views.q.dtype;
    return problem;
}

void check_mask(const BlockMask& mask, const AttentionProblem& problem, std::string_view op) {
    const auto text = [](std::int64_t batch, std::int64_t heads, std::int64_t q_len, std::int64_t k_len) {
        return "batch=" + std::to_string(batch) + " heads=" + std::to_string(heads) +
               " q_len=" + std::to_string(q_len) + " k_len=" + std::to_string(k_len);
    };
    const std::string wanted = text(problem.batch, problem.heads, problem.q_len, problem.k_len);
    const std::string got = text(mask.batch, mask.heads, mask.q_len, mask.k_len);
    if (wanted != got)
        throw InvalidArgument("[" + std::string(op) + "] the mask must be for " + wanted + ", got one for " +
                              got);
    mask.check();
}

}  // namespace

void fail_attention(const std::string& what, const AttentionViews& views) {
    throw InvalidArgument("[" + std::string(views.op) + "] " + what + " (q " + views.q.describe() + ", k " +
                          views.k.describe() + ", v " + views.v.describe() + ", o " + views.o.describe() +
                          ")");
}

Shape strides_of(const TensorView& view) {
    if (!view.strides.empty()) return view.strides;
    Shape strides(view.shape.size(), 1);
    for (std::size_t axis = view.shape.size() - 1; axis-- > 0;)
        strides[axis] = strides[axis + 1] * view.shape[axis + 1];
    return strides;
}

AttentionStrides attention_strides(const TensorView& view, AttentionLayout layout) {
    const Shape strides = strides_of(view);
    const bool bnsd = layout == AttentionLayout::bnsd;
    return {strides[0], strides[bnsd ? 1 : 2], strides[bnsd ? 2 : 1]};
}

AttentionStrides ordered_strides(const TensorView& view, AttentionLayout layout,
                                 const std::vector<const std::int32_t*>& orders) {
    AttentionStrides strides = attention_strides(view, layout);
    if (!orders.empty()) strides.order = orders.data();
    return strides;
}

AttentionProblem check_attention(const AttentionViews& views, const AttentionOptions& options) {
    AttentionProblem problem = check_shapes(views, options.layout);
    if (!std::isfinite(options.scale))
        throw InvalidArgument("[" + std::string(views.op) + "] the scale must be finite");
    problem.causal = options.causal;
    if (options.mask != nullptr) {
        check_mask(*options.mask, problem, views.op);
        problem.masked = true;
        problem.block_q = options.mask->block_q;
        problem.block_k = options.mask->block_k;
    }
    return problem;
}

}  // namespace aerogel
