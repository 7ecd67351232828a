// Checks, order of the weight, and the call.
#include "ops/convolution.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "base/timed.h"
#include "core/views.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/workspace.h"

namespace aerogel {
namespace {

void require_picture(bool fits, const char* name, const std::string& expected, const TensorView& got) {
    if (!fits)
        throw InvalidArgument(fmt::format("[convolution] {} must be {}, got {} on {}", name, expected,
                                          got.describe(), got.device.describe()));
}

bool is_weight(DType dtype) {
    return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

// f32 [out, kernel frames, height, width, in] on the CPU.
Tensor channels_last(const Tensor& weight) {
    const Tensor here = weight.to(Device::cpu);
    const bool flat = here.shape().size() == 4;
    const Shape& shape = here.shape();
    const std::int64_t frames = flat ? 1 : shape[2], height = shape[flat ? 2 : 3],
                       width = shape[flat ? 3 : 4];
    const std::int64_t taps = frames * height * width;
    Tensor last(DType::f32, {shape[0], frames, height, width, shape[1]});
    copy(part_of(here.view(), 0, {shape[0], taps, shape[1]}, {shape[1] * taps, 1, taps}),
         reshaped(last.mutable_view(), {shape[0], taps, shape[1]}));
    return last;
}

Axes sizes_of(const TensorView& view) {
    return {view.dim(0), view.dim(1), view.dim(2)};
}

bool side_by_side(const TensorView& view) {
    return view.shape.size() == 4 && (strides_of(view)[3] == 1 || view.dim(3) == 1);
}

}  // namespace

Convolution::Convolution(const Tensor& weight, const Tensor& bias, const ConvolutionForm& form, Device device)
    : form_(form) {
    const Shape shape = weight.defined() ? weight.shape() : Shape{};
    const bool flat = shape.size() == 4;
    require_picture(
        weight.defined() && is_weight(weight.dtype()) && (flat || shape.size() == 5) && weight.count() > 0,
        "weight", "f32, bf16 or f16 [out,in,height,width] or [out,in,frames,height,width]", weight.view());
    problem_.out_channels = shape[0];
    problem_.channels = shape[1];
    problem_.kernel = {flat ? 1 : shape[2], shape[flat ? 2 : 3], shape[flat ? 3 : 4]};
    if (bias.defined()) {
        require_picture(is_weight(bias.dtype()) && bias.shape() == Shape{shape[0]}, "bias",
                        fmt::format("f32, bf16 or f16 [{}]", shape[0]), bias.view());
        bias_ = bias.to(DType::f32).to(device);
    }
    problem_.stride = form_.stride;
    problem_.doubled = form_.doubled;
    pack(channels_last(weight), device);
}

void Convolution::pack(const Tensor& weight, Device device) {
    kernel_ = &choose("convolution", device, &Machine::convolution, problem_);
    QuantizedTensor matrix;
    matrix.format = Format::f32;
    matrix.rows = problem_.out_channels;
    matrix.columns = problem_.k();
    matrix.data = weight.to(Device::cpu).reshaped({matrix.rows, matrix.columns});
    Tensor packed(DType::u8, {static_cast<std::int64_t>(kernel_->packed_bytes(problem_))});
    run_operation([&] { kernel_->pack(problem_, matrix, static_cast<std::byte*>(packed.mutable_data())); });
    packed_ = PackedArray(packed, device);
}

void Convolution::run_kernel(ConvolutionArgs args, const Context& context) const {
    const Device device = packed_.device();
    const auto pixels = static_cast<double>(args.y_size.count());
    const auto channels = static_cast<double>(problem_.out_channels);
    const auto read = static_cast<double>(args.x_size.count() * problem_.channels);
    const Timed timed({.op = "convolution",
                       .kernel = kernel_->name,
                       .arithmetic = Arithmetic::f32,
                       .operations = 2.0 * pixels * channels * static_cast<double>(problem_.k()),
                       .bytes = 4.0 * (pixels * channels + read) + static_cast<double>(packed_.bytes())});
    args.packed = packed_.data();
    const auto run = [&] {
        const Workspace memory(kernel_->workspace_bytes(problem_, args.y_size.count()), device);
        args.workspace = memory.data();
        kernel_->run(problem_, args);
    };
    run_operation_on(device, run, context.threads);
}

void Convolution::run(const ConvolutionCall& call, const Context& context) const {
    const Device device = packed_.device();
    const auto floats = [&](const TensorView& view) {
        return view.dtype == DType::f32 && view.shape.size() == 4 && view.device == device;
    };
    const TensorView &x = call.x, &before = call.before, &add = call.add, y = call.y;
    require_picture(floats(x) && x.contiguous() && x.dim(3) == problem_.channels, "x",
                    fmt::format("contiguous f32 [frames,height,width,{}]", problem_.channels), x);
    require_picture(floats(y) && side_by_side(y) && y.dim(3) == problem_.out_channels, "y",
                    fmt::format("f32 [frames,height,width,{}]", problem_.out_channels), y);
    ConvolutionArgs args;
    args.x = static_cast<const float*>(x.data);
    args.x_size = sizes_of(x);
    if (before.data != nullptr) {
        require_picture(floats(before) && before.contiguous() && before.dim(1) == x.dim(1) &&
                            before.dim(2) == x.dim(2) && before.dim(3) == x.dim(3),
                        "before", "frames like those of x " + x.describe(), before);
        args.before = static_cast<const float*>(before.data);
        args.before_frames = before.dim(0);
    }
    if (add.data != nullptr) {
        require_picture(floats(add) && add.shape == y.shape && strides_of(add) == strides_of(y), "add",
                        "like y " + y.describe(), add);
        args.add = static_cast<const float*>(add.data);
    }
    args.padding = form_.padding;
    args.y = static_cast<float*>(call.y.data);
    args.y_size = sizes_of(y);
    const Shape strides = strides_of(y);
    args.y_strides = {strides[0], strides[1], strides[2]};
    args.bias = bias_.defined() ? bias_.as<float>() : nullptr;
    args.stream = context.stream;
    if (y.count() == 0) return;
    const bool fits =
        !form_.doubled || (y.dim(0) == x.dim(0) && y.dim(1) == 2 * x.dim(1) && y.dim(2) == 2 * x.dim(2));
    require_picture(fits, "y", "twice as high and wide as x " + x.describe(), y);
    run_kernel(args, context);
}

}  // namespace aerogel
