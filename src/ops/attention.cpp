// Argument checks of attention(), then the best kernel that takes the problem.
#include "aerogel/attention.h"

#include <array>
#include <cmath>
#include <string>

#include "aerogel/error.h"
#include "kernels/attention.h"
#include "ops/dispatch.h"
#include "ops/workspace.h"

namespace aerogel {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;

struct Views {
    const TensorView& q;
    const TensorView& k;
    const TensorView& v;
    const TensorView& o;
};

[[noreturn]] void fail(const std::string& what, const Views& views) {
    throw InvalidArgument("[attention] " + what + " (q " + views.q.describe() + ", k " + views.k.describe() +
                          ", v " + views.v.describe() + ", o " + views.o.describe() + ")");
}

Shape strides_of(const TensorView& view) {
    if (!view.strides.empty()) return view.strides;
    Shape strides(view.shape.size(), 1);
    for (std::size_t axis = view.shape.size() - 1; axis-- > 0;)
        strides[axis] = strides[axis + 1] * view.shape[axis + 1];
    return strides;
}

void check_view(const char* name, const TensorView& view, const Views& views) {
    const std::string prefix = std::string(name) + " must ";
    if (view.device != Device::cpu) fail(prefix + "be on the CPU", views);
    if (view.shape.size() != 4) fail(prefix + "have 4 axes", views);
    if (view.dtype != views.q.dtype) fail(prefix + "have the dtype of q", views);
    if (!view.strides.empty() && view.strides.size() != 4) fail(prefix + "have 4 strides", views);
    if (view.shape[3] > 1 && strides_of(view)[3] != 1) fail(prefix + "be contiguous in its last axis", views);
    if (view.count() != 0 && view.data == nullptr) fail(prefix + "have data", views);
}

/// [batch, heads, tokens, head_dim] of a view in either layout.
std::array<std::int64_t, 4> sizes(const TensorView& view, AttentionLayout layout) {
    const bool bnsd = layout == AttentionLayout::bnsd;
    return {view.dim(0), view.dim(bnsd ? 1 : 2), view.dim(bnsd ? 2 : 1), view.dim(3)};
}

AttentionStrides attention_strides(const TensorView& view, AttentionLayout layout) {
    const Shape strides = strides_of(view);
    const bool bnsd = layout == AttentionLayout::bnsd;
    return {strides[0], strides[bnsd ? 1 : 2], strides[bnsd ? 2 : 1]};
}

AttentionProblem check_shapes(const Views& views, AttentionLayout layout) {
    if (views.q.dtype != DType::f32 && views.q.dtype != DType::bf16) fail("q must be f32 or bf16", views);
    check_view("q", views.q, views);
    check_view("k", views.k, views);
    check_view("v", views.v, views);
    check_view("o", views.o, views);
    const auto q = sizes(views.q, layout);
    const auto k = sizes(views.k, layout);
    if (k[0] != q[0] || k[1] != q[1] || k[3] != q[3])
        fail("k must have the batch, heads and head_dim of q", views);
    if (sizes(views.v, layout) != k) fail("v must have the shape of k", views);
    if (sizes(views.o, layout) != q) fail("o must have the shape of q", views);
    if (q[3] < 1 || q[3] > kMaxHeadDim) fail("head_dim must be 1..256, got " + std::to_string(q[3]), views);
    AttentionProblem problem;
    problem.batch = q[0];
    problem.heads = q[1];
    problem.q_len = q[2];
    problem.k_len = k[2];
    problem.head_dim = q[3];
    problem.dtype = views.q.dtype;
    return problem;
}

void check_mask(const BlockMask& mask, const AttentionProblem& problem) {
    const auto text = [](std::int64_t batch, std::int64_t heads, std::int64_t q_len, std::int64_t k_len) {
        return "batch=" + std::to_string(batch) + " heads=" + std::to_string(heads) +
               " q_len=" + std::to_string(q_len) + " k_len=" + std::to_string(k_len);
    };
    const std::string wanted = text(problem.batch, problem.heads, problem.q_len, problem.k_len);
    const std::string got = text(mask.batch, mask.heads, mask.q_len, mask.k_len);
    if (wanted != got)
        throw InvalidArgument("[attention] the mask must be for " + wanted + ", got one for " + got);
    mask.check();
}

}  // namespace

void attention(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& o,
               const AttentionOptions& options) {
    const auto& [layout, mask, scale] = options;
    AttentionProblem problem = check_shapes({q, k, v, o}, layout);
    if (!std::isfinite(scale)) throw InvalidArgument("[attention] the scale must be finite");
    if (mask != nullptr) {
        check_mask(*mask, problem);
        problem.masked = true;
        problem.block_q = mask->block_q;
        problem.block_k = mask->block_k;
    }
    if (o.count() == 0) return;
    const AttentionKernel& kernel = choose("attention", attention_kernels(), problem);
    AttentionArgs args;
    args.q = q.data;
    args.k = k.data;
    args.v = v.data;
    args.o = o.data;
    args.q_strides = attention_strides(q, layout);
    args.k_strides = attention_strides(k, layout);
    args.v_strides = attention_strides(v, layout);
    args.o_strides = attention_strides(o, layout);
    args.scale = scale > 0.0F ? scale : 1.0F / std::sqrt(static_cast<float>(problem.head_dim));
    args.mask = mask;
    args.workspace = workspace(kernel.workspace_bytes(problem));
    kernel.run(problem, args);
}

}  // namespace aerogel
