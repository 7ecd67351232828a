// A block of the Wan transformer on float32 rows [batch * tokens, inner_dim]. Heads stay interleaved in the
// rows ([tokens, heads, head_dim]), so nothing is ever transposed.
#include "model/wan/block.h"

#include <algorithm>

#include "aerogel/attention.h"
#include "base/thread_pool.h"
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

// Calls visit(first row, rows, first run, rows per run): once where all runs have one length, else per run.
template <typename Visit>
void for_each_run(const TimeRuns& runs, const Visit& visit) {
    if (const std::int64_t length = runs.uniform_length(); length != 0) {
        visit(std::int64_t{0}, runs.starts.back(), std::int64_t{0}, length);
        return;
    }
    for (std::int64_t run = 0; run < runs.count(); ++run) {
        const std::int64_t first = runs.starts[static_cast<std::size_t>(run)];
        const std::int64_t rows = runs.starts[static_cast<std::size_t>(run) + 1] - first;
        visit(first, rows, run, rows);
    }
}

// One sub-layer's arrays in the scratch memory, handed out from its start.
class Scratch {
  public:
    explicit Scratch(Tensor& memory) : next_(memory.mutable_as<float>()) {}
    MutableView rows(std::int64_t rows, std::int64_t columns) {
        const MutableView view = rows_view(next_, rows, columns);
        next_ += rows * columns;
        return view;
    }

  private:
    float* next_;
};

class Block {
  public:
    Block(const WanBlockWeights& weights, const WanPass& pass, int index)
        : weights_(weights),
          pass_(pass),
          index_(index),
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
        const auto* table = weights_.scale_shift_table.as<float>();
        const auto* time = pass_.conditions.modulation.as<float>();
        auto* out = pass_.buffers.modulation.mutable_as<float>();
        const std::int64_t columns = kModulationRows * dim_;
        parallel_for(pass_.conditions.runs.count(), [&](std::int64_t run, int) {
            for (std::int64_t i = 0; i < columns; ++i) {
                out[run * columns + i] = table[i] + time[run * columns + i];
            }
        });
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
        attend_to_context(q, {weights.to_k, weights.to_v, weights.norm_k, pass_.conditions.text}, o, scratch);
        if (weights.add_k && pass_.conditions.image.dim(1) > 0) {
            const MutableView image = scratch.rows(rows_, dim_);
            attend_to_context(q, {weights.add_k, weights.add_v, weights.norm_added_k, pass_.conditions.image},
                              image, scratch);
            ResidualArgs sum;
            sum.rows = rows_;
            sum.columns = dim_;
            sum.x = o.as<float>();
            sum.y = image.as<float>();
            residual(sum);
        }
        run_linear(weights.to_out, o, q, pass_.step);
        add_to_hidden(q, -1);
    }

    // Without cross_attn_norm the layer reads the residual stream itself.
    TensorView cross_attention_input() {
        if (!weights_.norm2_weight.defined()) return pass_.buffers.hidden;
        NormArgs args;
        args.rows = rows_;
        args.columns = args.x_stride = args.y_stride = dim_;
        args.x = pass_.buffers.hidden.as<float>();
        args.y = pass_.buffers.normed.mutable_as<float>();
        args.weight = weights_.norm2_weight.as<float>();
        args.bias = weights_.norm2_bias.as<float>();
        args.epsilon = pass_.config.eps;
        norm(args);
        return pass_.buffers.normed;
    }

    struct Context {
        const LinearSlot& to_k;
        const LinearSlot& to_v;
        const Tensor& norm_k;
        const Tensor& tokens;  // [batch, length, inner_dim]
    };

    void attend_to_context(const TensorView& q, const Context& context, const MutableView& o,
                           Scratch scratch) {
        const std::int64_t length = context.tokens.dim(1);
        if (length == 0) {  // a softmax over nothing adds nothing
            std::fill_n(o.as<float>(), o.count(), 0.0F);
            return;
        }
        const Tensor tokens = context.tokens.reshaped({pass_.patches.batch * length, dim_});
        const MutableView k = project(context.to_k, tokens, scratch);
        const MutableView v = project(context.to_v, tokens, scratch);
        normalize_heads(context.norm_k, k);
        if (&context.to_k == &weights_.attn2.to_k) {
            attend(weights_.attn2, q, k, v, o);
        } else {  // image tokens
            attention(heads(q), heads(k), heads(v), heads(o));
        }
    }

    void feed_forward() {
        Scratch scratch(pass_.buffers.scratch);
        const MutableView inner = project(weights_.ffn_in, pass_.buffers.normed, scratch);
        activation(ActivationFunction::gelu_tanh, inner.as<float>(), inner.as<float>(), inner.count());
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
        NormArgs args;
        args.kind = NormKind::rms;
        args.rows = x.dim(0);
        args.columns = args.x_stride = args.y_stride = dim_;
        args.x = args.y = x.as<float>();
        args.weight = weight.as<float>();
        args.epsilon = pass_.config.eps;
        norm(args);
    }

    void rotate(const MutableView& x) {
        RopeArgs args;
        args.rows = rows_;
        args.tokens = pass_.patches.grid.tokens();
        args.heads = pass_.config.num_attention_heads;
        args.head_dim = pass_.config.attention_head_dim;
        args.x = x.as<float>();
        args.x_stride = dim_;
        args.cos = pass_.rotary.cos.as<float>();
        args.sin = pass_.rotary.sin.as<float>();
        rope(args);
    }

    // hidden += gate * y; gate -1 = none.
    void add_to_hidden(const TensorView& y, std::int64_t gate) {
        for_each_run(pass_.conditions.runs, [&](std::int64_t first, std::int64_t rows, std::int64_t run,
                                                std::int64_t length) {
            ResidualArgs args;
            args.rows = rows;
            args.columns = dim_;
            args.x = pass_.buffers.hidden.mutable_as<float>() + first * dim_;
            args.y = y.as<float>() + first * dim_;
            if (gate >= 0) {
                args.gate = pass_.buffers.modulation.as<float>() + (run * kModulationRows + gate) * dim_;
                args.rows_per_gate = length;
                args.gate_stride = kModulationRows * dim_;
            }
            residual(args);
        });
    }

    // [rows, inner_dim] seen as [batch, tokens, heads, head_dim].
    template <typename View>
    View heads(const View& x) const {
        const std::int64_t batch = pass_.patches.batch;
        return {DType::f32,
                {batch, x.dim(0) / batch, pass_.config.num_attention_heads, pass_.config.attention_head_dim},
                x.data,
                {},
                Device::cpu};
    }

    const WanBlockWeights& weights_;
    const WanPass& pass_;
    int index_;
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

WanBuffers::WanBuffers(const WanConfig& config, const PatchGrid& patches, const WanConditioning& conditions)
    : hidden(DType::f32, {patches.rows(), config.inner_dim()}),
      normed(DType::f32, {patches.rows(), config.inner_dim()}),
      modulation(DType::f32, {conditions.runs.count(), kModulationRows * config.inner_dim()}),
      scratch(DType::f32, {scratch_elements(config, patches, conditions)}) {}

void modulated_norm(const WanPass& pass, const ModulationRows& rows) {
    const std::int64_t dim = pass.config.inner_dim();
    const auto* modulation = pass.buffers.modulation.as<float>();
    for_each_run(pass.conditions.runs,
                 [&](std::int64_t first, std::int64_t count, std::int64_t run, std::int64_t length) {
                     NormArgs args;
                     args.rows = count;
                     args.columns = args.x_stride = args.y_stride = dim;
                     args.x = pass.buffers.hidden.as<float>() + first * dim;
                     args.y = pass.buffers.normed.mutable_as<float>() + first * dim;
                     args.shift = modulation + (run * rows.rows_per_run + rows.shift) * dim;
                     args.scale = modulation + (run * rows.rows_per_run + rows.scale) * dim;
                     args.rows_per_modulation = length;
                     args.modulation_stride = rows.rows_per_run * dim;
                     args.epsilon = pass.config.eps;
                     norm(args);
                 });
}

void run_block(const WanBlockWeights& weights, const WanPass& pass, int index) {
    Block(weights, pass, index).run();
}

}  // namespace aerogel
