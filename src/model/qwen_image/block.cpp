// A block on float32 rows.
#include "model/qwen_image/block.h"

#include <algorithm>
#include <array>

#include "core/views.h"
#include "model/attention_heads.h"
#include "model/slots.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

constexpr std::int64_t kRows = 6;
enum Row : std::int64_t { kShift, kScale, kGate, kShiftMlp, kScaleMlp, kGateMlp };

class QwenImageBlock {
  public:
    QwenImageBlock(const QwenImageBlockWeights& weights, const QwenImagePass& pass, int index)
        : weights_(weights),
          pass_(pass),
          index_(index),
          context_(pass.step.context.call),
          dim_(pass.config.inner_dim()) {}

    void run() {
        for (const QwenImageStreamWeights* stream : {&weights_.text, &weights_.image})
            run_linear(stream->modulation, pass_.time, modulation_of(*stream), pass_.step);
        for_each_part([&](const Part& part) { project(part); });
        attend();
        for_each_part([&](const Part& part) { leave_attention(part); });
        for_each_part([&](const Part& part) { feed_forward(part); });
    }

  private:
    // The text or the image of one item of the batch.
    struct Part {
        const QwenImageStreamWeights& weights;
        std::int64_t item, first, count;
    };

    template <typename Visit>
    void for_each_part(const Visit& visit) const {
        const QwenImageTokens& tokens = pass_.tokens;
        for (std::int64_t item = 0; item < tokens.batch; ++item) {
            const std::int64_t first = item * tokens.each();
            visit(Part{weights_.text, item, first, tokens.text});
            visit(Part{weights_.image, item, first + tokens.text, tokens.image.tokens()});
        }
    }

    // [batch, 6 * inner_dim].
    MutableView modulation_of(const QwenImageStreamWeights& stream) const {
        const Shape shape = {pass_.tokens.batch, kRows * dim_};
        const std::int64_t second = &stream == &weights_.image ? shape[0] * shape[1] : 0;
        return part_of(pass_.buffers.modulation.mutable_view(), second, shape);
    }

    TensorView modulation(const Part& part, Row row) const {
        return part_of(TensorView(modulation_of(part.weights)), (part.item * kRows + row) * dim_, {1, dim_});
    }

    static MutableView of(const Part& part, const MutableView& all) {
        return rows_of(all, part.first, part.count);
    }

    // Array `index` of q, k and v.
    MutableView heads_of(std::int64_t index) const {
        const Shape shape = {pass_.tokens.rows(), dim_};
        return part_of(pass_.buffers.scratch.mutable_view(), index * shape[0] * dim_, shape);
    }

    MutableView modulated(const Part& part, Row shift, Row scale) const {
        const MutableView normed = of(part, pass_.buffers.normed);
        norm({.x = of(part, pass_.buffers.hidden),
              .y = normed,
              .scale = modulation(part, scale),
              .shift = modulation(part, shift),
              .epsilon = kQwenImageEps},
             context_);
        return normed;
    }

    void project(const Part& part) const {
        const QwenImageStreamWeights& weights = part.weights;
        const MutableView x = modulated(part, kShift, kScale);
        const MutableView q = of(part, heads_of(0)), k = of(part, heads_of(1));
        run_linear(weights.to_q, x, q, pass_.step);
        run_linear(weights.to_k, x, k, pass_.step);
        run_linear(weights.to_v, x, of(part, heads_of(2)), pass_.step);
        normalize_heads(weights.norm_q, q, kQwenImageEps, context_);
        normalize_heads(weights.norm_k, k, kQwenImageEps, context_);
    }

    void attend() const {
        const std::array qkv = {heads_of(0), heads_of(1), heads_of(2)};
        for (const MutableView& x : {qkv[0], qkv[1]})
            rope({x, pass_.rotary.cos, pass_.rotary.sin, pass_.config.num_attention_heads}, context_);
        const std::int64_t items = pass_.tokens.batch, head_dim = pass_.config.attention_head_dim;
        run_attention(weights_.attention,
                      {.block = index_,
                       .is_self = true,
                       .q = as_heads(qkv[0], items, head_dim),
                       .k = as_heads(qkv[1], items, head_dim),
                       .v = as_heads(qkv[2], items, head_dim),
                       .o = as_heads(pass_.buffers.normed.mutable_view(), items, head_dim),
                       .latent = pass_.tokens.image,
                       .text_len = pass_.tokens.text},
                      pass_.step);
    }

    void leave_attention(const Part& part) const {
        const MutableView y = of(part, heads_of(0));
        run_linear(part.weights.to_out, of(part, pass_.buffers.normed), y, pass_.step);
        residual(of(part, pass_.buffers.hidden), y, modulation(part, kGate), context_);
    }

    void feed_forward(const Part& part) const {
        const MutableView x = modulated(part, kShiftMlp, kScaleMlp);
        const MutableView inner = part_of(pass_.buffers.scratch.mutable_view(), 0, {part.count, 4 * dim_});
        run_linear(part.weights.mlp_in, x, inner, pass_.step);
        activation(ActivationFunction::gelu_tanh, inner, inner, context_);
        run_linear(part.weights.mlp_out, inner, x, pass_.step);
        residual(of(part, pass_.buffers.hidden), x, modulation(part, kGateMlp), context_);
    }

    const QwenImageBlockWeights& weights_;
    const QwenImagePass& pass_;
    int index_;
    const Context& context_;
    std::int64_t dim_;
};

std::int64_t scratch_elements(const QwenImageConfig& config, const QwenImageTokens& tokens) {
    return config.inner_dim() * std::max(3 * tokens.rows(), 4 * std::max(tokens.text, tokens.image.tokens()));
}

}  // namespace

QwenImageBuffers::QwenImageBuffers(const QwenImageConfig& config, const QwenImageTokens& tokens,
                                   Device device)
    : hidden(DType::f32, {tokens.rows(), config.inner_dim()}, device),
      normed(DType::f32, {tokens.rows(), config.inner_dim()}, device),
      modulation(DType::f32, {2, tokens.batch, kRows * config.inner_dim()}, device),
      scratch(DType::f32, {scratch_elements(config, tokens)}, device) {}

void run_block(const QwenImageBlockWeights& weights, const QwenImagePass& pass, int index) {
    QwenImageBlock(weights, pass, index).run();
}

}  // namespace aerogel
