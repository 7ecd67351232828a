// Sums of velocities, and norms of tokens.
#include "model/guidance.h"

#include "core/views.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

// A sample [1, c, f, h, w] as [tokens, values of a token]: a view over axes f, h / side, w / side, c, side,
// side.
template <typename View>
View as_tokens(const View& sample, int token_side) {
    const std::int64_t side = token_side;
    const std::int64_t channels = sample.dim(1), frames = sample.dim(2), height = sample.dim(3),
                       width = sample.dim(4);
    const std::int64_t frame = height * width;
    return part_of(sample, 0, {frames, height / side, width / side, channels, side, side},
                   {frame, side * width, side, frames * frame, width, 1});
}

Tensor packed(const TensorView& sample, int token_side) {
    const TensorView tokens = as_tokens(sample, token_side);
    Tensor dense(DType::f32, tokens.shape, sample.device);
    copy(tokens, dense);
    const Shape& shape = dense.shape();
    return dense.reshaped({shape[0] * shape[1] * shape[2], shape[3] * shape[4] * shape[5]});
}

// Gives every token of x the norm that it has in `like`.
void match_tokens(const MutableView& x, const Tensor& like, int token_side) {
    Tensor tokens = packed(x, token_side);
    match_norms(tokens, like);
    const MutableView place = as_tokens(x, token_side);
    copy(tokens.reshaped(place.shape), place);
}

}  // namespace

double no_guidance(GuidanceRule rule) {
    return rule == GuidanceRule::above_plain ? 0.0 : 1.0;
}

void guide(GuidanceRule rule, double scale, const GuidedVelocity& velocity) {
    const MutableView& guided = velocity.conditional;
    Tensor before;
    if (rule == GuidanceRule::rescaled) before = packed(guided, velocity.token_side);
    if (rule == GuidanceRule::above_plain) scale += 1.0;
    // negative + scale * (conditional - negative), in the memory of the conditional velocity.
    combine({{1.0, guided}, {-1.0, velocity.negative}}, guided);
    combine({{1.0, velocity.negative}, {scale, guided}}, guided);
    if (rule == GuidanceRule::rescaled) match_tokens(guided, before, velocity.token_side);
}

}  // namespace aerogel
