// A block of the Wan transformer on float32 rows [batch * tokens, inner_dim]. Heads stay interleaved in the
// rows ([tokens, heads, head_dim]), so nothing is ever transposed.
#include "model/wan/block.h"

#include <algorithm>

#include "aerogel/attention.h"
#include "core/views.h"
#include "model/slots.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

constexpr std::int64_t kModulationRows = 6;
enum ModulationRow : std::int64_t {
    kShiftAttention,
    kScaleAttention,
    kGateAttention,
    kShiftFfn,
    kScaleFfn,
    kGateFfn
};

// Token rows first .. first + rows - 1, of as many runs of one length.
struct RunPart {
    std::int64_t first, rows, first_run, runs;

    // Row `index` of each of the runs' rows_per_run: [runs, inner_dim].
    TensorView modulation(const WanPass& pass, std::int64_t rows_per_run, std::int64_t index) const {
        const std::int64_t dim = pass.config.inner_dim();
        return part_of(pass.buffers.modulation.view(), (first_run * rows_per_run + index) * dim, {runs, dim},
                       {rows_per_run * dim, 1});
    }
};

// Once where all runs have one length, else per run.
template <typename Visit>
void for_each_part(const WanPass& pass, const Visit& visit) {
    const TimeRuns& runs = pass.conditions.runs;
    if (runs.uniform_length() != 0) return visit(RunPart{0, runs.starts.back(), 0, runs.count()});
    for (std::int64_t run = 0; run < runs.count(); ++run) {
        const std::int64_t first = runs.starts[static_cast<std::size_t>(run)];
        visit(RunPart{first, runs.starts[static_cast<std::size_t>(run) + 1] - first, run, 1});
    }
}

// One sub-layer's arrays in the scratch memory, handed out from its start.
class Scratch {
  public:
    explicit Scratch(Tensor& memory) : memory_(memory) {}
    MutableView rows(std::int64_t rows, std::int64_t columns) {
        const MutableView view = part_of(memory_, used_, {rows, columns});
        used_ += rows * columns;
        return view;
    }

  private:
    MutableView memory_;
    std::int64_t used_ = 0;
};

class Block {
  public:
    Block(const WanBlockWeights& weights, const WanPass& pass, int index)
        : weights_(weights),
          pass_(pass),
          index_(index),
          context_(pass.step.context.call),
          rows_(pass.patches.rows()),
          dim_(pass.config.inner_dim()) {}

    void run() {
        add_modulation_table();
        modulated_norm(pass_, {kModulationRows, kShiftAttention, kScaleAttention});
        self_attention();
        cross_attention();
        modulated_norm(pass_, {kModulationRows, kShiftFfn, kScaleFfn});
        feed_forward();
    }

  private:
    void add_modulation_table() {
        copy(pass_.conditions.modulation, pass_.buffers.modulation, context_);
        residual(pass_.buffers.modulation, weights_.scale_shift_table.reshaped({1, kModulationRows * dim_}),
                 {}, context_);
    }

    void self_attention() {
        const WanAttentionWeights& attention = weights_.attn1;
        Scratch scratch(pass_.buffers.scratch);
        const MutableView q = project(attention.to_q, pass_.buffers.normed, scratch);
        const MutableView k = project(attention.to_k, pass_.buffers.normed, scratch);
        const MutableView v = project(attention.to_v, pass_.buffers.normed, scratch);
        normalize_heads(attention.norm_q, q);
        normalize_heads(attention.norm_k, k);
        rotate(q);
        rotate(k);
        attend(attention, q, k, v, pass_.buffers.normed);
        run_linear(attention.to_out, pass_.buffers.normed, q, pass_.step);
        add_to_hidden(q, kGateAttention);
    }

    // Every attention but that to image tokens: as the module holds it and the step wants it.
    void attend(const WanAttentionWeights& weights, const TensorView& q, const TensorView& k,
                const TensorView& v, const MutableView& o) {
        const bool is_self = &weights == &weights_.attn1;
        run_attention(weights.slot,
                      {index_, is_self, heads(q), heads(k), heads(v), heads(o), pass_.patches.grid},
                      pass_.step);
    }

    void cross_attention() {
        const WanAttentionWeights& weights = weights_.attn2;
        Scratch scratch(pass_.buffers.scratch);
        const MutableView q = project(weights.to_q, cross_attention_input(), scratch);
        normalize_heads(weights.norm_q, q);
        const MutableView o = pass_.buffers.normed;
        attend_to(q, {weights.to_k, weights.to_v, weights.norm_k, pass_.conditions.text}, o, scratch);
        if (weights.add_k && pass_.conditions.image.dim(1) > 0) {
            const MutableView image = scratch.rows(rows_, dim_);
            attend_to(q, {weights.add_k, weights.add_v, weights.norm_added_k, pass_.conditions.image}, image,
                      scratch);
            residual(o, image, {}, context_);
        }
        run_linear(weights.to_out, o, q, pass_.step);
        add_to_hidden(q, -1);
    }

    // Without cross_attn_norm the layer reads the residual stream itself.
    TensorView cross_attention_input() {
        if (!weights_.norm2_weight.defined()) return pass_.buffers.hidden;
        norm({.x = pass_.buffers.hidden,
              .y = pass_.buffers.normed,
              .weight = weights_.norm2_weight,
              .bias = weights_.norm2_bias,
              .epsilon = pass_.config.eps},
             context_);
        return pass_.buffers.normed;
    }

    struct KeysAndValues {
        const LinearSlot& to_k;
        const LinearSlot& to_v;
        const Tensor& norm_k;
        const Tensor& tokens;  // [batch, length, inner_dim]
    };

    void attend_to(const TensorView& q, const KeysAndValues& seen, const MutableView& o, Scratch scratch) {
        const std::int64_t length = seen.tokens.dim(1);
        if (length == 0) return clear(o);  // a softmax over nothing adds nothing
        const Tensor tokens = seen.tokens.reshaped({pass_.patches.batch * length, dim_});
        const MutableView k = project(seen.to_k, tokens, scratch);
        const MutableView v = project(seen.to_v, tokens, scratch);
        normalize_heads(seen.norm_k, k);
        if (&seen.to_k == &weights_.attn2.to_k) {
            attend(weights_.attn2, q, k, v, o);
        } else {  // image tokens
            attention(heads(q), heads(k), heads(v), heads(o), {.call = context_});
        }
    }

    void feed_forward() {
        Scratch scratch(pass_.buffers.scratch);
        const MutableView inner = project(weights_.ffn_in, pass_.buffers.normed, scratch);
        activation(ActivationFunction::gelu_tanh, inner, inner, context_);
        run_linear(weights_.ffn_out, inner, pass_.buffers.normed, pass_.step);
        add_to_hidden(pass_.buffers.normed, kGateFfn);
    }

    MutableView project(const LinearSlot& slot, const TensorView& x, Scratch& scratch) {
        const MutableView y = scratch.rows(x.dim(0), slot.layer->out_features());
        run_linear(slot, x, y, pass_.step);
        return y;
    }

    // RMS norm over all heads of a row together, in place.
    void normalize_heads(const Tensor& weight, const MutableView& x) {
        if (!weight.defined()) return;
        norm({.kind = NormKind::rms, .x = x, .y = x, .weight = weight, .epsilon = pass_.config.eps},
             context_);
    }

    void rotate(const MutableView& x) {
        rope({x, pass_.rotary.cos, pass_.rotary.sin, pass_.config.num_attention_heads}, context_);
    }

    // hidden += gate * y; gate -1 = none.
    void add_to_hidden(const TensorView& y, std::int64_t gate) {
        if (gate < 0) return residual(pass_.buffers.hidden, y, {}, context_);
        for_each_part(pass_, [&](const RunPart& part) {
            residual(rows_of(pass_.buffers.hidden.mutable_view(), part.first, part.rows),
                     rows_of(y, part.first, part.rows), part.modulation(pass_, kModulationRows, gate),
                     context_);
        });
    }

    // [rows, inner_dim] seen as [batch, tokens, heads, head_dim].
    template <typename View>
    View heads(const View& x) const {
        const std::int64_t batch = pass_.patches.batch;
        return reshaped(
            x, {batch, x.dim(0) / batch, pass_.config.num_attention_heads, pass_.config.attention_head_dim});
    }

    const WanBlockWeights& weights_;
    const WanPass& pass_;
    int index_;
    const Context& context_;
    std::int64_t rows_;
    std::int64_t dim_;
};

std::int64_t scratch_elements(const WanConfig& config, const PatchGrid& patches,
                              const WanConditioning& conditions) {
    const std::int64_t dim = config.inner_dim();
    const std::int64_t rows = patches.rows();
    const std::int64_t text = patches.batch * conditions.text.dim(1);
    const std::int64_t image = patches.batch * conditions.image.dim(1);
    const std::int64_t patch_columns =
        std::max(config.in_channels, config.out_channels) * patches.patch_elements();
    const std::int64_t image_output = image > 0 ? rows : 0;
    return std::max({rows * patch_columns, 3 * rows * dim, rows * config.ffn_dim,
                     (rows + image_output + 2 * std::max(text, image)) * dim});
}

}  // namespace

WanBuffers::WanBuffers(const WanConfig& config, const PatchGrid& patches, const WanConditioning& conditions,
                       Device device)
    : hidden(DType::f32, {patches.rows(), config.inner_dim()}, device),
      normed(DType::f32, {patches.rows(), config.inner_dim()}, device),
      modulation(DType::f32, {conditions.runs.count(), kModulationRows * config.inner_dim()}, device),
      scratch(DType::f32, {scratch_elements(config, patches, conditions)}, device) {}

void modulated_norm(const WanPass& pass, const ModulationRows& rows) {
    for_each_part(pass, [&](const RunPart& part) {
        norm({.x = rows_of(pass.buffers.hidden.view(), part.first, part.rows),
              .y = rows_of(pass.buffers.normed.mutable_view(), part.first, part.rows),
              .scale = part.modulation(pass, rows.rows_per_run, rows.scale),
              .shift = part.modulation(pass, rows.rows_per_run, rows.shift),
              .epsilon = pass.config.eps},
             pass.step.context.call);
    });
}

void run_block(const WanBlockWeights& weights, const WanPass& pass, int index) {
    Block(weights, pass, index).run();
}

}  // namespace aerogel
