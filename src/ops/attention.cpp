// Argument checks of attention(), then the best kernel that takes the problem.
#include "aerogel/attention.h"

#include <cmath>

#include "kernels/attention.h"
#include "ops/attention_checks.h"
#include "ops/dispatch.h"
#include "ops/grouped_heads.h"
#include "ops/workspace.h"

namespace aerogel {

void attention(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& o,
               const AttentionOptions& options) {
    const auto& [layout, mask, scale, causal] = options;
    const AttentionProblem problem = check_attention({"attention", q, k, v, o}, options);
    if (o.count() == 0) return;
    if (has_grouped_heads(q, k, layout)) {
        for_each_group_member({q, k, o}, options, [&](const GroupMember& member) {
            attention(member.q, k, v, member.o, {layout, member.mask, scale, causal});
        });
        return;
    }
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
