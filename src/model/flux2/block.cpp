// Blocks on float32 rows. Heads stay interleaved in the rows ([tokens, heads, head_dim]), so nothing is ever
// transposed.
#include "model/flux2/block.h"

#include <algorithm>
#include <array>

#include "core/views.h"
#include "model/attention_heads.h"
#include "model/slots.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

// Rows first .. first + count - 1 of the residual stream, all of one item and one kind of token.
struct Span {
    std::int64_t item, first, count;
};

class BlockParts {
  public:
    explicit BlockParts(const Flux2Pass& pass)
        : pass_(pass),
          context_(pass.step.context.call),
          dim_(pass.config.inner_dim()),
          mlp_(pass.config.mlp_hidden_dim),
          rows_(pass.tokens.rows()) {}

  protected:
    MutableView hidden() const { return pass_.buffers.hidden; }

    // Array `index` of the three in `wide`.
    MutableView wide(std::int64_t index) const {
        return part_of(pass_.buffers.wide.mutable_view(), index * rows_ * dim_, {rows_, dim_});
    }

    MutableView scratch(std::int64_t offset, Shape shape, Shape strides = {}) const {
        return part_of(pass_.buffers.scratch.mutable_view(), offset, std::move(shape), std::move(strides));
    }

    // Row `index` of the modulation of `items` items from `first` on: [items, inner_dim].
    TensorView modulation(const Tensor& all, std::int64_t index, std::int64_t first,
                          std::int64_t items) const {
        const std::int64_t width = all.dim(1);
        return part_of(all.view(), first * width + index * dim_, {items, dim_}, {width, 1});
    }

    void normalize(const Tensor& weight, const MutableView& x) const {
        normalize_heads(weight, x, pass_.config.eps, context_);
    }

    void rotate(const MutableView& x) const {
        rope({x, pass_.rotary.cos, pass_.rotary.sin, pass_.config.num_attention_heads}, context_);
    }

    // q, k, v contiguous; o may have a row stride.
    void attend(const AttentionSlot& slot, int index, const std::array<MutableView, 3>& qkv,
                const MutableView& o) const {
        const Flux2Tokens& tokens = pass_.tokens;
        const std::int64_t head_dim = pass_.config.attention_head_dim, stride = strides_of(o)[0];
        const Shape shape = {tokens.batch, tokens.each(), pass_.config.num_attention_heads, head_dim};
        const MutableView heads = part_of(o, 0, shape, {tokens.each() * stride, stride, head_dim, 1});
        run_attention(slot,
                      {.block = index,
                       .is_self = true,
                       .q = reshaped(qkv[0], shape),
                       .k = reshaped(qkv[1], shape),
                       .v = reshaped(qkv[2], shape),
                       .o = heads,
                       .latent = tokens.image,
                       .text_len = tokens.text},
                      pass_.step);
    }

    // In place: silu(first half) * second half of [rows, 2 * mlp], into the first half.
    MutableView swiglu(const MutableView& halves) const {
        const Shape shape = {halves.dim(0), mlp_}, strides = {strides_of(halves)[0], 1};
        const MutableView gate = part_of(halves, 0, shape, strides);
        gated(ActivationFunction::silu, gate, part_of(halves, mlp_, shape, strides), gate, context_);
        return gate;
    }

    const Flux2Pass& pass_;
    const Context& context_;
    std::int64_t dim_, mlp_, rows_;
};

class DoubleBlock : BlockParts {
  public:
    DoubleBlock(const Flux2DoubleWeights& weights, const Flux2Pass& pass, int index)
        : BlockParts(pass), weights_(weights), index_(index) {}

    void run() {
        const std::array qkv = {scratch(0, {rows_, dim_}), scratch(rows_ * dim_, {rows_, dim_}),
                                scratch(2 * rows_ * dim_, {rows_, dim_})};
        for_each_stream([&](const Stream& stream) { project(stream, qkv); });
        rotate(qkv[0]);
        rotate(qkv[1]);
        attend(weights_.attention, index_, qkv, wide(0));
        for_each_stream([&](const Stream& stream) { leave_attention(stream); });
        for_each_stream([&](const Stream& stream) { feed_forward(stream); });
    }

  private:
    enum Row : std::int64_t { kShift, kScale, kGate, kShiftFfn, kScaleFfn, kGateFfn };

    struct Stream {
        const Flux2StreamWeights& weights;
        const Tensor& modulation;
        Span span;
    };

    // Text, then image, of every item of the batch.
    template <typename Visit>
    void for_each_stream(const Visit& visit) const {
        const Flux2Tokens& tokens = pass_.tokens;
        for (std::int64_t item = 0; item < tokens.batch; ++item) {
            const std::int64_t first = item * tokens.each();
            visit(Stream{weights_.text, pass_.modulation.text, {item, first, tokens.text}});
            visit(Stream{
                weights_.image, pass_.modulation.image, {item, first + tokens.text, tokens.image.tokens()}});
        }
    }

    MutableView of(const Stream& stream, const MutableView& all) const {
        return rows_of(all, stream.span.first, stream.span.count);
    }

    MutableView modulated(const Stream& stream, Row shift, Row scale) const {
        const MutableView normed = of(stream, wide(0));
        if (stream.span.count == 0) return normed;
        norm({.x = of(stream, hidden()),
              .y = normed,
              .scale = modulation(stream.modulation, scale, stream.span.item, 1),
              .shift = modulation(stream.modulation, shift, stream.span.item, 1),
              .epsilon = pass_.config.eps},
             context_);
        return normed;
    }

    void add(const Stream& stream, const TensorView& y, Row gate) const {
        if (stream.span.count == 0) return;
        residual(of(stream, hidden()), y, modulation(stream.modulation, gate, stream.span.item, 1), context_);
    }

    void project(const Stream& stream, const std::array<MutableView, 3>& qkv) const {
        const Flux2StreamWeights& weights = stream.weights;
        const MutableView x = modulated(stream, kShift, kScale);
        run_linear(weights.to_q, x, of(stream, qkv[0]), pass_.step);
        run_linear(weights.to_k, x, of(stream, qkv[1]), pass_.step);
        run_linear(weights.to_v, x, of(stream, qkv[2]), pass_.step);
        normalize(weights.norm_q, of(stream, qkv[0]));
        normalize(weights.norm_k, of(stream, qkv[1]));
    }

    void leave_attention(const Stream& stream) const {
        const MutableView y = scratch(0, {stream.span.count, dim_});
        run_linear(stream.weights.to_out, of(stream, wide(0)), y, pass_.step);
        add(stream, y, kGate);
    }

    void feed_forward(const Stream& stream) const {
        const MutableView x = modulated(stream, kShiftFfn, kScaleFfn);
        const MutableView halves = scratch(0, {stream.span.count, 2 * mlp_});
        run_linear(stream.weights.ff_in, x, halves, pass_.step);
        if (stream.span.count > 0) run_linear(stream.weights.ff_out, swiglu(halves), x, pass_.step);
        add(stream, x, kGateFfn);
    }

    const Flux2DoubleWeights& weights_;
    int index_;
};

class SingleBlock : BlockParts {
  public:
    SingleBlock(const Flux2SingleWeights& weights, const Flux2Pass& pass, int index)
        : BlockParts(pass), weights_(weights), index_(index) {}

    void run() {
        const std::int64_t width = 3 * dim_ + 2 * mlp_;
        const MutableView all = scratch(0, {rows_, width});
        run_linear(weights_.to_qkv_mlp, normed(), all, pass_.step);
        const std::array qkv = {wide(0), wide(1), wide(2)};
        copy(part_of(all, 0, {3, rows_, dim_}, {dim_, width, 1}),
             reshaped(pass_.buffers.wide.mutable_view(), {3, rows_, dim_}), context_);
        normalize(weights_.norm_q, qkv[0]);
        normalize(weights_.norm_k, qkv[1]);
        rotate(qkv[0]);
        rotate(qkv[1]);
        // v has moved, so its columns take the attention's output, beside that of the feed-forward.
        attend(weights_.attention, index_, qkv, scratch(2 * dim_, {rows_, dim_}, {width, 1}));
        swiglu(scratch(3 * dim_, {rows_, 2 * mlp_}, {width, 1}));
        run_linear(weights_.to_out, scratch(2 * dim_, {rows_, dim_ + mlp_}, {width, 1}), wide(0), pass_.step);
        residual(hidden(), wide(0), modulation(pass_.modulation.single, 2, 0, pass_.tokens.batch), context_);
    }

  private:
    MutableView normed() const {
        norm({.x = hidden(),
              .y = wide(0),
              .scale = modulation(pass_.modulation.single, 1, 0, pass_.tokens.batch),
              .shift = modulation(pass_.modulation.single, 0, 0, pass_.tokens.batch),
              .epsilon = pass_.config.eps},
             context_);
        return wide(0);
    }

    const Flux2SingleWeights& weights_;
    int index_;
};

}  // namespace

Flux2Buffers::Flux2Buffers(const Flux2Config& config, const Flux2Tokens& tokens, Device device)
    : hidden(DType::f32, {tokens.rows(), config.inner_dim()}, device),
      wide(DType::f32, {3, tokens.rows(), config.inner_dim()}, device),
      scratch(DType::f32,
              {tokens.rows() * std::max({3 * config.inner_dim() + 2 * config.mlp_hidden_dim,
                                         config.in_channels, config.out_channels})},
              device) {}

void run_double_block(const Flux2DoubleWeights& weights, const Flux2Pass& pass, int index) {
    DoubleBlock(weights, pass, index).run();
}

void run_single_block(const Flux2SingleWeights& weights, const Flux2Pass& pass, int index) {
    SingleBlock(weights, pass, index).run();
}

}  // namespace aerogel
