// Fresh pages cost as much as the copying itself, so a thread keeps the memory of its last call unless that
// was large.
#include "sparse/reordered.h"

namespace aerogel {
namespace {

Tensor kept_bytes(std::int64_t bytes) {
    constexpr std::int64_t kLargestKept = std::int64_t{128} << 20;
    thread_local Tensor kept;
    if (kept.defined() && kept.count() >= bytes) return kept;
    Tensor fresh(DType::u8, {bytes});
    kept = bytes <= kLargestKept ? fresh : Tensor();
    return fresh;
}

}  // namespace

Reordered::Reordered(const SparseArrays& call, AttentionLayout call_layout, const OrderOfMap& q_orders,
                     const OrderOfMap& k_orders) {
    const HeadRows q(call.q, call_layout);
    const HeadRows k = HeadRows(call.k, call_layout).repeated(q.heads);
    const HeadRows v = HeadRows(call.v, call_layout).repeated(q.heads);
    const Shape shape = {q.batch, q.heads, q.tokens, q.head_dim};
    const Shape key_shape = {q.batch, q.heads, k.tokens, q.head_dim};
    const auto bytes_of = [&](const Shape& of) {
        return (element_count(of) * static_cast<std::int64_t>(size_of(q.dtype)) + 63) / 64 * 64;
    };
    memory_ = kept_bytes(2 * bytes_of(shape) + 2 * bytes_of(key_shape));
    auto* next = static_cast<std::byte*>(memory_.data());
    for (TensorView* view : {&arrays.q, &arrays.k, &arrays.v, &arrays.o}) {
        const Shape& of = view == &arrays.q || view == &arrays.o ? shape : key_shape;
        *view = {q.dtype, of, next};
        next += bytes_of(of);
    }
    gather(q, q_orders, {arrays.q, layout});
    gather(k, k_orders, {arrays.k, layout});
    gather(v, k_orders, {arrays.v, layout});
}

void Reordered::put_back(const SparseArrays& call, AttentionLayout call_layout,
                         const OrderOfMap& q_orders) const {
    scatter({arrays.o, layout}, q_orders, {call.o, call_layout});
}

}  // namespace aerogel
