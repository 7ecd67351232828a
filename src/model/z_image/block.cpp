// A block on float32 rows: attention and feed-forward between two norms each ("sandwich norm", Cogview,
// arXiv 2105.13290), modulated by scales and gates without shifts.
#include "model/z_image/block.h"

#include <algorithm>
#include <utility>

#include "core/views.h"
#include "model/attention_heads.h"
#include "model/slots.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

constexpr float kHeadEps = 1e-5F;  // diffusers builds the norms of heads with it, whatever norm_eps says
constexpr std::int64_t kModulationRows = 4;
enum ModulationRow : std::int64_t { kScaleAttention, kGateAttention, kScaleFfn, kGateFfn };

class ZImageBlock {
  public:
    ZImageBlock(const ZImageBlockWeights& weights, const ZImagePass& pass, const ZImageSpan& span)
        : weights_(weights),
          pass_(pass),
          span_(span),
          context_(pass.step.context.call),
          dim_(pass.config.dim),
          hidden_(rows_of(pass.buffers.hidden.mutable_view(), span.first, span.rows())),
          normed_(rows_of(pass.buffers.normed.mutable_view(), span.first, span.rows())) {}

    void run() {
        if (weights_.modulation) modulate();
        scaled_norm(weights_.attention_norm1, kScaleAttention);
        self_attention();
        scaled_norm(weights_.ffn_norm1, kScaleFfn);
        feed_forward();
    }

  private:
    void modulate() {
        const MutableView all = rows_of(pass_.buffers.modulation.mutable_view(), span_.item, span_.items);
        run_linear(weights_.modulation, rows_of(pass_.time.view(), span_.item, span_.items), all, pass_.step);
        for (std::int64_t item = 0; item < span_.items; ++item) {
            for (const ModulationRow row : {kGateAttention, kGateFfn}) {
                const MutableView gate = part_of(all, (item * kModulationRows + row) * dim_, {dim_});
                activation(ActivationFunction::tanh, gate, gate, context_);
            }
        }
    }

    // Of all items: [items, dim]; without data in a block that is not modulated.
    TensorView modulation(ModulationRow row) const {
        if (!weights_.modulation) return {};
        return part_of(pass_.buffers.modulation.view(), (span_.item * kModulationRows + row) * dim_,
                       {span_.items, dim_}, {kModulationRows * dim_, 1});
    }

    void scaled_norm(const Tensor& weight, ModulationRow scale) {
        norm({.kind = NormKind::rms,
              .x = hidden_,
              .y = normed_,
              .weight = weight,
              .scale = modulation(scale),
              .epsilon = pass_.config.norm_eps},
             context_);
    }

    // hidden += gate * norm(y).
    void add_normed(const Tensor& weight, const MutableView& y, ModulationRow gate) {
        norm({.kind = NormKind::rms, .x = y, .y = y, .weight = weight, .epsilon = pass_.config.norm_eps},
             context_);
        residual(hidden_, y, modulation(gate), context_);
    }

    MutableView scratch(std::int64_t first, std::int64_t columns) const {
        return part_of(pass_.buffers.scratch.mutable_view(), first, {span_.rows(), columns});
    }

    void self_attention() {
        const std::int64_t size = span_.rows() * dim_;
        const MutableView q = scratch(0, dim_), k = scratch(size, dim_), v = scratch(2 * size, dim_);
        run_linear(weights_.to_q, normed_, q, pass_.step);
        run_linear(weights_.to_k, normed_, k, pass_.step);
        run_linear(weights_.to_v, normed_, v, pass_.step);
        for (const auto& [weight, x] : {std::pair(&weights_.norm_q, q), std::pair(&weights_.norm_k, k)}) {
            normalize_heads(*weight, x, kHeadEps, context_);
            rope({x, rows_of(pass_.rotary.cos.view(), span_.first_token, span_.each),
                  rows_of(pass_.rotary.sin.view(), span_.first_token, span_.each),
                  pass_.config.num_attention_heads},
                 context_);
        }
        attend(q, k, v);
        run_linear(weights_.to_out, normed_, q, pass_.step);
        add_normed(weights_.attention_norm2, q, kGateAttention);
    }

    void attend(const TensorView& q, const TensorView& k, const TensorView& v) {
        const std::int64_t head_dim = pass_.config.attention_head_dim, items = span_.items;
        run_attention(weights_.attention,
                      {.block = span_.block,
                       .is_self = span_.has_image,
                       .q = as_heads(q, items, head_dim),
                       .k = as_heads(k, items, head_dim),
                       .v = as_heads(v, items, head_dim),
                       .o = as_heads(normed_, items, head_dim),
                       .latent = pass_.tokens.image,
                       .text_len = span_.has_image ? span_.each - pass_.tokens.image.tokens() : 0,
                       .text_first = false},
                      pass_.step);
    }

    void feed_forward() {
        const std::int64_t hidden = pass_.config.hidden_dim();
        const MutableView gate = scratch(0, hidden), inner = scratch(span_.rows() * hidden, hidden);
        run_linear(weights_.w1, normed_, gate, pass_.step);
        run_linear(weights_.w3, normed_, inner, pass_.step);
        gated(ActivationFunction::silu, gate, inner, gate, context_);
        run_linear(weights_.w2, gate, normed_, pass_.step);
        add_normed(weights_.ffn_norm2, normed_, kGateFfn);
    }

    const ZImageBlockWeights& weights_;
    const ZImagePass& pass_;
    const ZImageSpan& span_;
    const Context& context_;
    std::int64_t dim_;
    MutableView hidden_, normed_;
};

}  // namespace

ZImageBuffers::ZImageBuffers(const ZImageConfig& config, const ZImageTokens& tokens, Device device)
    : hidden(DType::f32, {tokens.rows(), config.dim}, device),
      normed(DType::f32, {tokens.rows(), config.dim}, device),
      modulation(DType::f32, {tokens.batch, kModulationRows * config.dim}, device),
      scratch(DType::f32, {tokens.rows() * std::max(3 * config.dim, 2 * config.hidden_dim())}, device) {}

void run_block(const ZImageBlockWeights& weights, const ZImagePass& pass, const ZImageSpan& span) {
    ZImageBlock(weights, pass, span).run();
}

}  // namespace aerogel
