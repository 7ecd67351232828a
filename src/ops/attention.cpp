// Argument checks of attention(), then the best kernel that takes the problem.
#include "aerogel/attention.h"

#include <cmath>

#include "base/thread_pool.h"
#include "kernels/attention.h"
#include "ops/dispatch.h"
#include "ops/grouped_heads.h"
#include "ops/token_orders.h"
#include "ops/workspace.h"

namespace aerogel {

void attention(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& o,
               const AttentionOptions& options) {
    attention({attention_op(options), q, k, v, o}, options, {});
}

std::string_view attention_op(const AttentionOptions& options) {
    return options.format == AttentionFormat::none ? "attention" : "quantized_attention";
}

void attention(const AttentionViews& views, const AttentionOptions& options, const TokenOrders& orders) {
    if (options.format != AttentionFormat::none) {
        quantized_attention(views, options, orders);
        return;
    }
    const auto& [op, q, k, v, o] = views;
    const bool rotates = options.q_rotation.data != nullptr || options.k_rotation.data != nullptr;
    if (rotates || options.scales != nullptr || options.q_tokens != 0 || options.k_tokens != 0)
        fail_attention("rotations, scales, q_tokens and k_tokens go with a format", views);
    const AttentionProblem problem = check_attention(views, options);
    if (o.count() == 0) return;
    if (has_grouped_heads(q, k, options.layout)) {
        for_each_group_member(views, options, orders, [&](const GroupMember& member) {
            AttentionOptions own = options;
            own.mask = member.mask;
            attention({views.op, member.q, views.k, views.v, member.o}, own, member.orders);
        });
        return;
    }
    const AttentionKernel& kernel = choose("attention", q.device, &Machine::attention, problem);
    AttentionArgs args;
    args.q = q.data;
    args.k = k.data;
    args.v = v.data;
    args.o = o.data;
    args.q_strides = ordered_strides(q, options.layout, orders.q);
    args.k_strides = ordered_strides(k, options.layout, orders.k);
    args.v_strides = ordered_strides(v, options.layout, orders.k);
    args.o_strides = ordered_strides(o, options.layout, orders.q);
    args.scale =
        options.scale > 0.0F ? options.scale : 1.0F / std::sqrt(static_cast<float>(problem.head_dim));
    args.mask = options.mask;
    run_operation([&] {
        args.workspace = workspace(kernel.workspace_bytes(problem));
        kernel.run(problem, args);
    });
}

}  // namespace aerogel
