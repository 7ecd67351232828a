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

/// A mask and orders that lie on the device of the arrays: per map of q, unless one order serves all.
struct ListsOnDevice {
    MaskRows rows;
    std::int64_t block_q = 0, block_k = 0;
    const std::int32_t* const* q_order = nullptr;  ///< [maps of q] or null: as the tokens lie
    const std::int32_t* const* k_order = nullptr;  ///< [maps of q]
    bool orders_differ = false;
};

/// What messages about these options begin with.
std::string_view attention_op(const AttentionOptions& options);

void attention(const AttentionViews& views, const AttentionOptions& options, const TokenOrders& orders);
/// The same under such lists; options.mask is null.
void attention_there(const AttentionViews& views, const AttentionOptions& options,
                     const ListsOnDevice& lists);

/// Throws InvalidArgument: "[op] what (q ..., k ..., v ..., o ...)".
[[noreturn]] void fail_attention(const std::string& what, const AttentionViews& views);

/// Checks devices, types, shapes and options against each other.
AttentionProblem check_attention(const AttentionViews& views, const AttentionOptions& options);

AttentionStrides attention_strides(const TensorView& view, AttentionLayout layout);

}  // namespace aerogel
