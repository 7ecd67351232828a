// Layers of VAEs, made of operations.
#include "model/vae/layers.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "core/views.h"
#include "model/vae/tiles.h"
#include "ops/elementwise.h"
#include "ops/linear.h"

namespace aerogel {
namespace {

// Scores of attention that exist at once.
constexpr std::int64_t kScoreBytes = std::int64_t{32} << 20;

template <typename View>
View as_rows(const View& pixels) {
    const std::int64_t channels = pixels.shape.back();
    return reshaped(pixels, {pixels.count() / channels, channels});
}

QuantizedTensor float_matrix(const Tensor& data) {
    QuantizedTensor matrix;
    matrix.format = Format::f32;
    matrix.rows = data.dim(0);
    matrix.columns = data.dim(1);
    matrix.data = data;
    return matrix;
}

Axes size_after(const ConvolutionForm& form, const Axes& size) {
    const std::int64_t times = form.doubled ? 2 : 1;
    return {size.frames / form.stride.frames, size.height * times / form.stride.height,
            size.width * times / form.stride.width};
}

double frames_bytes(const VaeExtent& x, std::int64_t frames) {
    return VaeExtent{{frames, x.size.height, x.size.width}, x.channels}.bytes();
}

}  // namespace

struct VaeConvolution::State {
    Tensor weight, bias;
    ConvolutionForm form;
    Device device;
    std::once_flag once;
    std::unique_ptr<Convolution> packed;
};

VaeConvolution::VaeConvolution(const ConvolutionSizes& sizes, Tensor weight, Tensor bias,
                               const ConvolutionForm& form, Device device)
    : sizes_(sizes), state_(std::make_shared<State>()) {
    state_->weight = std::move(weight);
    state_->bias = std::move(bias);
    state_->form = form;
    state_->device = device;
}

const Convolution& VaeConvolution::get() const {
    State& state = *state_;
    std::call_once(state.once, [&] {
        state.packed = std::make_unique<Convolution>(state.weight, state.bias, state.form, state.device);
    });
    return *state.packed;
}

void VaeConvolution::move_weight(WeightPlace place) {
    if (state_ != nullptr && state_->packed != nullptr) state_->packed->move_weight(place);
}

bool VaePart::stopped() const {
    return norms != nullptr && norms->waits();
}

void VaeNorm::run(const Tensor& x, Tensor& y, bool silu, const VaePart& part) const {
    const TensorView from = as_rows(x.view());
    const MutableView to = as_rows(y.mutable_view());
    if (groups == 0)
        return norm(
            {.kind = NormKind::rms, .x = from, .y = to, .weight = weight, .epsilon = epsilon, .silu = silu},
            part.context);
    TensorView moments;
    if (part.norms != nullptr) {
        const Tensor* known = part.norms->moments(x, groups, part.context);
        if (known == nullptr) return;
        moments = known->view();
    }
    group_norm({.x = from,
                .y = to,
                .groups = groups,
                .weight = weight,
                .bias = bias,
                .moments = moments,
                .epsilon = epsilon,
                .silu = silu},
               part.context);
}

VaeConvolution VaeBuilder::convolution(const std::string& name, const ConvolutionSizes& sizes,
                                       const ConvolutionForm& form) {
    const Axes& kernel = sizes.kernel;
    Shape shape = {sizes.out, sizes.in, kernel.frames, kernel.height, kernel.width};
    if (sizes.flat) shape.erase(shape.begin() + 2);
    Tensor weight = checkpoint_.take(name + ".weight", shape);
    Tensor bias = checkpoint_.take(name + ".bias", {sizes.out});
    return {sizes, std::move(weight), std::move(bias), form, device()};
}

VaeConvolution VaeBuilder::same(const std::string& name, const ConvolutionSizes& sizes) {
    const Axes& kernel = sizes.kernel;
    return convolution(name, sizes, {.padding = {kernel.frames - 1, kernel.height / 2, kernel.width / 2}});
}

std::pair<VaeConvolution, VaeConvolution> VaeBuilder::halves(const std::string& name,
                                                             const ConvolutionSizes& sizes,
                                                             const ConvolutionForm& form) {
    const Axes& kernel = sizes.kernel;
    Shape shape = {2 * sizes.out, sizes.in, kernel.frames, kernel.height, kernel.width};
    if (sizes.flat) shape.erase(shape.begin() + 2);
    const Tensor weight = checkpoint_.take(name + ".weight", shape);
    const Tensor bias = checkpoint_.take(name + ".bias", {2 * sizes.out});
    const auto half = [&](std::int64_t which) {
        return VaeConvolution(sizes, copied_rows(weight, which * sizes.out, sizes.out),
                              copied_rows(bias, which * sizes.out, sizes.out), form, device());
    };
    return {half(0), half(1)};
}

VaeNorm VaeBuilder::group_norm(const std::string& name, std::int64_t channels, std::int64_t groups) {
    return {groups, checkpoint_.take_f32(name + ".weight", {channels}),
            checkpoint_.take_f32(name + ".bias", {channels})};
}

// F.normalize divides by at least 1e-12, here as the square of the mean.
VaeNorm VaeBuilder::rms_norm(const std::string& name, std::int64_t channels, std::size_t axes) {
    Shape shape(axes, 1);
    shape[0] = channels;
    const Tensor gamma = checkpoint_.take_f32(name + ".gamma", shape);
    return {
        0, gamma.defined() ? gamma.reshaped({channels}) : gamma, {}, 1e-24F / static_cast<float>(channels)};
}

std::pair<Tensor, Tensor> VaeBuilder::matrix(const std::string& name, std::int64_t out, std::int64_t in,
                                             std::size_t axes) {
    Shape shape(axes, 1);
    shape[0] = out;
    shape[1] = in;
    const Tensor weight = checkpoint_.take(name + ".weight", shape);
    return {weight.defined() ? weight.reshaped({out, in}) : weight, checkpoint_.take(name + ".bias", {out})};
}

Axes size_of(const Tensor& x) {
    return {x.dim(0), x.dim(1), x.dim(2)};
}

Tensor copied_rows(const Tensor& x, std::int64_t first, std::int64_t count) {
    if (!x.defined()) return x;
    Shape shape = x.shape();
    shape[0] = count;
    Tensor rows(x.dtype(), shape, x.device());
    copy(rows_of(x.view(), first, count), rows);
    return rows;
}

Tensor pixels_like(const Tensor& x, const Axes& size, std::int64_t channels) {
    return {DType::f32, {size.frames, size.height, size.width, channels}, x.device()};
}

Tensor last_frames(const Tensor& before, const TensorView& x, std::int64_t count, const Context& context) {
    const std::int64_t earlier = before.defined() ? before.dim(0) : 0;
    Shape shape = x.shape;
    shape[0] = std::min(count, earlier + x.dim(0));
    Tensor kept(DType::f32, shape, x.device);
    const std::int64_t of_x = std::min(shape[0], x.dim(0)), of_before = shape[0] - of_x;
    if (of_before > 0)
        copy(rows_of(before.view(), earlier - of_before, of_before),
             rows_of(kept.mutable_view(), 0, of_before), context);
    copy(rows_of(x, x.dim(0) - of_x, of_x), rows_of(kept.mutable_view(), of_before, of_x), context);
    return kept;
}

void run_causal(const CausalCall& call, const VaePart& part) {
    const Convolution& convolution = call.convolution.get();
    Tensor* const kept = call.place && convolution.memory() > 0 ? &part.memory[*call.place] : nullptr;
    const TensorView before = kept != nullptr && kept->defined() ? kept->view() : TensorView{};
    convolution.run({.x = call.x, .y = call.y, .before = before, .add = call.add}, part.context);
    if (kept == nullptr) return;
    *kept = part.last ? Tensor() : last_frames(*kept, call.x, convolution.memory(), part.context);
}

ConvolutionLayer::ConvolutionLayer(VaeConvolution convolution, const ConvolutionForm& form,
                                   std::optional<std::size_t> place)
    : convolution_(std::move(convolution)), form_(form), place_(place) {}

Tensor ConvolutionLayer::run(Tensor x, const VaePart& part) const {
    Tensor y = pixels_like(x, size_after(form_, size_of(x)), convolution_.get().out_channels());
    run_causal({.convolution = convolution_, .x = x, .y = y, .place = place_}, part);
    return y;
}

VaeExtent ConvolutionLayer::measure(const VaeExtent& x, double& bytes, double& kept) const {
    const VaeExtent y = {size_after(form_, x.size), convolution_.sizes().out};
    bytes = std::max(bytes, x.bytes() + y.bytes());
    if (place_) kept += frames_bytes(x, convolution_.sizes().kernel.frames - 1);
    return y;
}

Tensor NormLayer::run(Tensor x, const VaePart& part) const {
    norm_.run(x, x, true, part);
    return x;
}

VaeExtent NormLayer::measure(const VaeExtent& x, double& bytes, double&) const {
    bytes = std::max(bytes, x.bytes());
    return x;
}

Tensor ResidualLayer::run(Tensor x, const VaePart& part) const {
    const Axes size = size_of(x);
    const std::int64_t out = parts_.conv1.sizes().out;
    const auto place = [&](std::size_t which) {
        return parts_.places ? std::optional(*parts_.places + which) : std::nullopt;
    };
    Tensor hidden = pixels_like(x, size, out);
    {
        Tensor normed = pixels_like(x, size, x.dim(3));
        parts_.norm1.run(x, normed, true, part);
        if (part.stopped()) return x;
        run_causal({.convolution = parts_.conv1, .x = normed, .y = hidden, .place = place(0)}, part);
    }
    parts_.norm2.run(hidden, hidden, true, part);
    if (part.stopped()) return x;
    Tensor y = x;
    if (parts_.shortcut) {
        y = pixels_like(x, size, out);
        parts_.shortcut.get().run({.x = x, .y = y}, part.context);
        x = {};
    }
    run_causal({.convolution = parts_.conv2, .x = hidden, .y = y, .add = y, .place = place(1)}, part);
    return y;
}

VaeExtent ResidualLayer::measure(const VaeExtent& x, double& bytes, double& kept) const {
    const VaeExtent y = {x.size, parts_.conv1.sizes().out};
    bytes = std::max({bytes, 2.0 * x.bytes() + y.bytes(), x.bytes() + 2.0 * y.bytes()});
    const std::int64_t frames = parts_.conv1.sizes().kernel.frames - 1;
    if (parts_.places) kept += frames_bytes(x, frames) + frames_bytes(y, frames);
    return y;
}

void ResidualLayer::move_weights(WeightPlace place) {
    for (VaeConvolution* convolution : {&parts_.conv1, &parts_.conv2, &parts_.shortcut})
        convolution->move_weight(place);
}

VaeAttentionLayer::VaeAttentionLayer(Parts parts) : norm_(std::move(parts.norm)) {
    const auto linear = [&](const std::pair<Tensor, Tensor>& matrix) {
        return matrix.first.defined()
                   ? std::make_unique<FloatLinear>(matrix.first, matrix.second, parts.device)
                   : nullptr;
    };
    q_ = linear(parts.q);
    k_ = linear(parts.k);
    v_ = linear(parts.v);
    out_ = linear(parts.out);
}

// The keys are the weight of one matrix product and the values that of another.
void VaeAttentionLayer::run_frame(const TensorView& normed, const MutableView& y,
                                  const Context& context) const {
    const std::int64_t tokens = normed.dim(0), channels = normed.dim(1);
    const auto array = [&](std::int64_t rows, std::int64_t columns) {
        return Tensor(DType::f32, {rows, columns}, normed.device);
    };
    Tensor q = array(tokens, channels), projected = array(tokens, channels), turned = array(channels, tokens);
    v_->forward(normed, projected, {.call = context});
    copy(part_of(projected.view(), 0, {channels, tokens}, {1, channels}), turned, context);
    const PackedLinear values(float_matrix(turned), Activation::none, normed.device);
    turned = {};
    k_->forward(normed, projected, {.call = context});
    const PackedLinear keys(float_matrix(projected), Activation::none, normed.device);
    q_->forward(normed, q, {.call = context});
    const std::int64_t most = std::clamp<std::int64_t>(kScoreBytes / 4 / tokens, 64, tokens + 64);
    Tensor scores = array(std::min(most, tokens), tokens);
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(channels)));
    for (std::int64_t first = 0; first < tokens; first += most) {
        const std::int64_t count = std::min(most, tokens - first);
        const MutableView some = rows_of(scores.mutable_view(), 0, count);
        keys.run(rows_of(q.view(), first, count), some, Activation::none, {}, context);
        softmax(some, scale, context);
        values.run(some, rows_of(projected.mutable_view(), first, count), Activation::none, {}, context);
    }
    out_->forward(projected, q, {.call = context});
    residual(y, q, {}, context);
}

Tensor VaeAttentionLayer::run(Tensor x, const VaePart& part) const {
    Tensor normed = pixels_like(x, size_of(x), x.dim(3));
    norm_.run(x, normed, false, part);
    const std::int64_t tokens = x.dim(1) * x.dim(2);
    const MutableView rows = as_rows(x.mutable_view());
    for (std::int64_t frame = 0; frame < x.dim(0); ++frame)
        run_frame(rows_of(as_rows(normed.view()), frame * tokens, tokens),
                  rows_of(rows, frame * tokens, tokens), part.context);
    return x;
}

void VaeAttentionLayer::move_weights(WeightPlace place) {
    for (const auto* layer : {&q_, &k_, &v_, &out_}) (*layer)->move_weight(place);
}

VaeExtent VaeAttentionLayer::measure(const VaeExtent& x, double& bytes, double&) const {
    bytes = std::max(bytes, 2.0 * x.bytes() + 5.0 * frames_bytes(x, 1) + kScoreBytes);
    return x;
}

}  // namespace aerogel
