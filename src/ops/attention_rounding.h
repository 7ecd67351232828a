// Float copies of q, k and v as the attention formats need them: rotated, centred, rounded to FP8 or MX
// blocks.
#pragma once

#include <vector>

#include "aerogel/attention.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// What the copies below copy: a 4-D f32 or bf16 view whose last axis is contiguous, its tokens per map in
/// this order (empty: as they lie).
struct OrderedView {
    const TensorView& view;
    AttentionLayout layout;
    const std::vector<const std::int32_t*>& order;
};

/// A contiguous f32 copy of the same shape, in that order.
Tensor float_copy(const OrderedView& from);
/// The inverse, from contiguous f32 values.
void write_back(const Tensor& from, const OrderedView& to);
/// x times matrix [head_dim, head_dim] (f32 or bf16), over the last axis.
Tensor rotated(const Tensor& x, const TensorView& matrix);

/// In place, per batch and head, on a contiguous 4-D f32 tensor of that layout:
/// takes the mean over tokens off every channel.
void subtract_means(const Tensor& x, AttentionLayout layout);
/// E4M3 with scale max|x| / 448 per block of `tokens` tokens x head_dim; to nearest, ties to even.
void round_fp8(const Tensor& x, AttentionLayout layout, std::int64_t tokens);

/// round(x / scale) * scale with scale max|x| / 127 per block of `tokens` tokens x head_dim; ties to even.
void round_int8(const Tensor& x, AttentionLayout layout, std::int64_t tokens);
/// E4M3 with scale max|x| / 448 per channel over all tokens.
void round_fp8_channels(const Tensor& x, AttentionLayout layout);

enum class MxElement : std::uint8_t { e4m3, e2m1 };
enum class MxAxis : std::uint8_t { channels, tokens };
/// Microscaling: blocks of 32 along the axis share 2^(floor(log2 max|x|) - emax), at least 2^-127, emax 8
/// (E4M3) or 2 (E2M1); elements to nearest, ties to even, saturating.
void round_mx(const Tensor& x, AttentionLayout layout, MxElement element, MxAxis axis);

}  // namespace aerogel
