// attention() for those who also give the order of the tokens, and where rows lie.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/attention.h"
#include "kernels/attention.h"

namespace aerogel {

struct AttentionViews {
    std::string_view op;  ///< begins the messages
    const TensorView& q;
    const TensorView& k;
    const TensorView& v;
    const MutableView& o;
};

/// Per map (batch * heads of q + head), row i is token order[i]: of q and o, and of k and v. Masks and
/// causality are about rows. Empty: as the tokens lie.
struct TokenOrders {
    std::vector<const std::int32_t*> q, k;
};

/// What messages about these options begin with.
std::string_view attention_op(const AttentionOptions& options);

void attention(const AttentionViews& views, const AttentionOptions& options, const TokenOrders& orders);

/// Throws InvalidArgument: "[op] what (q ..., k ..., v ..., o ...)".
[[noreturn]] void fail_attention(const std::string& what, const AttentionViews& views);

/// Checks devices, types, shapes and options against each other.
AttentionProblem check_attention(const AttentionViews& views, const AttentionOptions& options);

AttentionStrides attention_strides(const TensorView& view, AttentionLayout layout);

}  // namespace aerogel
