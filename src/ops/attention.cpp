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
    const AttentionProblem problem = check_attention({"attention", q, k, v, o}, options);
    if (o.count() == 0) return;
    if (has_grouped_heads(q, k, options.layout)) {
        for_each_group_member({q, k, o}, options, [&](const GroupMember& member) {
            AttentionOptions own = options;
            own.mask = member.mask;
            attention(member.q, k, v, member.o, own);
        });
        return;
    }
    const AttentionKernel& kernel = choose("attention", attention_kernels(), problem);
    AttentionArgs args;
    args.q = q.data;
    args.k = k.data;
    args.v = v.data;
    args.o = o.data;
    args.q_strides = attention_strides(q, options.layout);
    args.k_strides = attention_strides(k, options.layout);
    args.v_strides = attention_strides(v, options.layout);
    args.o_strides = attention_strides(o, options.layout);
    args.scale =
        options.scale > 0.0F ? options.scale : 1.0F / std::sqrt(static_cast<float>(problem.head_dim));
    args.mask = options.mask;
    args.workspace = workspace(kernel.workspace_bytes(problem));
    kernel.run(problem, args);
}

}  // namespace aerogel
