// Frames that are doubled, joined, repeated and averaged.
#include "model/vae/time_layers.h"

#include <algorithm>

#include "core/views.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

std::int64_t frame_of(const Tensor& x) {
    return x.dim(1) * x.dim(2) * x.dim(3);
}

Tensor run_all(const VaeLayers& layers, Tensor x, const VaePart& part) {
    for (const auto& layer : layers) x = layer->run(std::move(x), part);
    return x;
}

VaeExtent measure_all(const VaeLayers& layers, VaeExtent x, double& bytes, double& kept) {
    for (const auto& layer : layers) x = layer->measure(x, bytes, kept);
    return x;
}

// The mean over groups of (channel, frame, line, column), as weights of a convolution.
Tensor average_weight(const AveragingDownLayer::Factors& f) {
    const std::int64_t taps = f.frames * f.sides * f.sides, group = f.in * taps / f.out;
    std::vector<float> weight(static_cast<std::size_t>(f.out * f.in * taps), 0.0F);
    for (std::int64_t out = 0; out < f.out; ++out)
        for (std::int64_t i = 0; i < group; ++i)
            weight[static_cast<std::size_t>(out * f.in * taps + out * group + i)] =
                1.0F / static_cast<float>(group);
    return Tensor::of(weight, {f.out, f.in, f.frames, f.sides, f.sides});
}

}  // namespace

TimeUpLayer::TimeUpLayer(std::pair<VaeConvolution, VaeConvolution> halves, std::size_t place)
    : halves_(std::move(halves)), place_(place) {}

Tensor TimeUpLayer::run(Tensor x, const VaePart& part) const {
    const std::int64_t skipped = part.first ? 1 : 0, rest = x.dim(0) - skipped;
    Tensor y = pixels_like(x, {skipped + 2 * rest, x.dim(1), x.dim(2)}, x.dim(3));
    if (part.first) copy(rows_of(x.view(), 0, 1), rows_of(y.mutable_view(), 0, 1), part.context);
    if (rest == 0) return y;
    const TensorView from = rows_of(x.view(), skipped, rest);
    const std::int64_t frame = frame_of(x);
    Tensor& kept = part.memory[place_];
    const TensorView before = kept.defined() ? kept.view() : TensorView{};
    for (const std::int64_t half : {0, 1}) {
        const MutableView to = part_of(y.mutable_view(), (skipped + half) * frame, from.shape,
                                       {2 * frame, x.dim(2) * x.dim(3), x.dim(3), 1});
        (half == 0 ? halves_.first : halves_.second)
            .get()
            .run({.x = from, .y = to, .before = before}, part.context);
    }
    kept = part.last ? Tensor() : last_frames(kept, from, halves_.first.get().memory(), part.context);
    return y;
}

VaeExtent TimeUpLayer::measure(const VaeExtent& x, double& bytes, double& kept) const {
    bytes = std::max(bytes, 3.0 * x.bytes());
    kept += 2.0 * x.bytes() / static_cast<double>(x.size.frames);
    return {{2 * x.size.frames, x.size.height, x.size.width}, x.channels};
}

void TimeUpLayer::move_weights(WeightPlace place) {
    for (VaeConvolution* half : {&halves_.first, &halves_.second}) half->move_weight(place);
}

TimeDownLayer::TimeDownLayer(VaeConvolution convolution, std::size_t place)
    : convolution_(std::move(convolution)), place_(place) {}

Tensor TimeDownLayer::run(Tensor x, const VaePart& part) const {
    const std::int64_t skipped = part.first ? 1 : 0, rest = x.dim(0) - skipped;
    Tensor y = pixels_like(x, {skipped + rest / 2, x.dim(1), x.dim(2)}, x.dim(3));
    const TensorView first = rows_of(x.view(), 0, 1);
    Tensor& kept = part.memory[place_];
    if (part.first) copy(first, rows_of(y.mutable_view(), 0, 1), part.context);
    if (rest > 1) {
        const TensorView before = part.first ? first : kept.view();
        convolution_.get().run({.x = rows_of(x.view(), skipped, rest),
                                .y = rows_of(y.mutable_view(), skipped, rest / 2),
                                .before = before},
                               part.context);
    }
    kept = part.last ? Tensor() : last_frames({}, x, 1, part.context);
    return y;
}

VaeExtent TimeDownLayer::measure(const VaeExtent& x, double& bytes, double& kept) const {
    bytes = std::max(bytes, 1.5 * x.bytes());
    kept += x.bytes() / static_cast<double>(x.size.frames);
    return {{x.size.frames / 2, x.size.height, x.size.width}, x.channels};
}

bool RepeatingUpLayer::fits(std::int64_t in, std::int64_t out, std::int64_t frames_factor) {
    const std::int64_t factor = 4 * frames_factor;
    if (out * factor % in != 0) return false;
    const std::int64_t repeats = out * factor / in;
    return factor % repeats == 0 || repeats % factor == 0;
}

RepeatingUpLayer::RepeatingUpLayer(VaeLayers layers, VaeConvolution doubled, std::int64_t in,
                                   std::int64_t frames_factor)
    : layers_(std::move(layers)),
      doubled_(std::move(doubled)),
      frames_factor_(frames_factor),
      repeats_(doubled_.sizes().out * 4 * frames_factor / in) {}

// Pixel (frame, line, column) number i of the 4 or 8 that one becomes has channel (out * factor + i) /
// repeats of it. Of the first frame only the last one stays.
void RepeatingUpLayer::repeat(const Tensor& x, Tensor& y, bool first, const Context& context) const {
    const std::int64_t factor = 4 * frames_factor_, in = x.dim(3), out = y.dim(3);
    const std::int64_t line = y.dim(2) * out, frame = y.dim(1) * line;
    const std::int64_t spread =
        std::max<std::int64_t>(factor / repeats_, 1);  // channels of x per channel of y
    const std::int64_t copies = std::max<std::int64_t>(repeats_ / factor, 1);  // and the other way round
    for (std::int64_t i = 0; i < factor; ++i) {
        const std::int64_t later = i / 4, skipped = first && later != frames_factor_ - 1 ? 1 : 0;
        const std::int64_t start = later - (first ? frames_factor_ - 1 : 0) + skipped * frames_factor_;
        const Shape shape = {x.dim(0) - skipped, x.dim(1), x.dim(2), out / copies, copies};
        if (shape[0] == 0) continue;
        const TensorView from = part_of(x.view(), skipped * frame_of(x) + i / repeats_ % spread, shape,
                                        {frame_of(x), x.dim(2) * in, in, spread, 0});
        copy(from,
             part_of(y.mutable_view(), start * frame + i / 2 % 2 * line + i % 2 * out, shape,
                     {frames_factor_ * frame, 2 * line, 2 * out, copies, 1}),
             context);
    }
}

Tensor RepeatingUpLayer::run(Tensor x, const VaePart& part) const {
    const std::int64_t frames = frames_factor_ * x.dim(0) - (part.first ? frames_factor_ - 1 : 0);
    Tensor y = pixels_like(x, {frames, 2 * x.dim(1), 2 * x.dim(2)}, doubled_.sizes().out);
    repeat(x, y, part.first, part.context);
    x = run_all(layers_, std::move(x), part);
    doubled_.get().run({.x = x, .y = y, .add = y}, part.context);
    return y;
}

VaeExtent RepeatingUpLayer::measure(const VaeExtent& x, double& bytes, double& kept) const {
    const VaeExtent y = {{frames_factor_ * x.size.frames, 2 * x.size.height, 2 * x.size.width},
                         doubled_.sizes().out};
    double inner = 0.0;
    const VaeExtent last = measure_all(layers_, x, inner, kept);
    bytes = std::max(bytes, y.bytes() + std::max(inner, last.bytes()));
    return y;
}

void RepeatingUpLayer::move_weights(WeightPlace place) {
    for (const auto& layer : layers_) layer->move_weights(place);
    doubled_.move_weight(place);
}

AveragingDownLayer::AveragingDownLayer(VaeLayers layers, const Factors& factors, Device device)
    : layers_(std::move(layers)), factors_(factors) {
    const ConvolutionSizes sizes = {
        factors.in, factors.out, {factors.frames, factors.sides, factors.sides}, false};
    const Tensor weight = average_weight(factors);
    ConvolutionForm form = {.stride = sizes.kernel};
    average_ = {sizes, weight, {}, form, device};
    form.padding.frames = factors.frames - 1;
    average_first_ = {sizes, weight, {}, form, device};
}

void AveragingDownLayer::move_weights(WeightPlace place) {
    for (const auto& layer : layers_) layer->move_weights(place);
    for (VaeConvolution* average : {&average_first_, &average_}) average->move_weight(place);
}

Tensor AveragingDownLayer::run(Tensor x, const VaePart& part) const {
    const std::int64_t alone = part.first ? 1 : 0;
    const Axes size = {alone + (x.dim(0) - alone) / factors_.frames, x.dim(1) / factors_.sides,
                       x.dim(2) / factors_.sides};
    Tensor shortcut = pixels_like(x, size, factors_.out);
    (part.first ? average_first_ : average_).get().run({.x = x, .y = shortcut}, part.context);
    Tensor y = run_all(layers_, std::move(x), part);
    const Shape rows = {size.count(), factors_.out};
    residual(reshaped(y.mutable_view(), rows), reshaped(shortcut.view(), rows), {}, part.context);
    return y;
}

VaeExtent AveragingDownLayer::measure(const VaeExtent& x, double& bytes, double& kept) const {
    double inner = 0.0;
    const VaeExtent y = measure_all(layers_, x, inner, kept);
    bytes = std::max(bytes, inner + y.bytes());
    return y;
}

Tensor PatchLayer::run(Tensor x, const VaePart& part) const {
    const bool join = way_ == Way::to_channels;
    const std::int64_t p = size_, squares = p * p;
    const Axes size = join ? Axes{x.dim(0), x.dim(1) / p, x.dim(2) / p} : Axes{x.dim(0), x.dim(1), x.dim(2)};
    const std::int64_t channels = join ? x.dim(3) : x.dim(3) / squares;
    Tensor y = join ? pixels_like(x, size, channels * squares)
                    : pixels_like(x, {size.frames, size.height * p, size.width * p}, channels);
    // frames, lines, line in the square, columns, column in the square, channels
    const Shape shape = {size.frames, size.height, p, size.width, p, channels};
    const std::int64_t line = size.width * p * channels;
    const Shape pixels = {size.height * p * line, p * line, line, p * channels, channels, 1};
    const bool lines_first = order_ == Order::lines_first;
    const Shape patches = {size.height * p * line, p * line, lines_first ? p : 1, squares * channels,
                           lines_first ? 1 : p,    squares};
    copy(part_of(x.view(), 0, shape, join ? pixels : patches),
         part_of(y.mutable_view(), 0, shape, join ? patches : pixels), part.context);
    return y;
}

VaeExtent PatchLayer::measure(const VaeExtent& x, double& bytes, double&) const {
    bytes = std::max(bytes, 2.0 * x.bytes());
    const std::int64_t p = size_;
    if (way_ == Way::to_channels)
        return {{x.size.frames, x.size.height / p, x.size.width / p}, x.channels * p * p};
    return {{x.size.frames, x.size.height * p, x.size.width * p}, x.channels / (p * p)};
}

}  // namespace aerogel
