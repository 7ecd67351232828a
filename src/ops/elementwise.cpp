// Checks, then the kernels of the device.
#include "ops/elementwise.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "base/timed.h"
#include "core/device_memory.h"
#include "core/views.h"
#include "ops/bfloat16_rows.h"
#include "ops/dispatch.h"
#include "ops/workspace.h"

namespace aerogel {
namespace {

void require(bool fits, const char* op, const char* name, const std::string& expected,
             const TensorView& got) {
    if (!fits)
        throw InvalidArgument(fmt::format("[{}] {} must be {}, got {} on {}", op, name, expected,
                                          got.describe(), got.device.describe()));
}

/// Rows whose elements lie side by side.
bool are_rows(const TensorView& x) {
    return x.shape.size() == 2 && (x.contiguous() || (x.strides.size() == 2 && x.strides[1] == 1));
}

void require_rows(const char* op, const char* name, const TensorView& x) {
    require(x.dtype == DType::f32 && are_rows(x), op, name, "f32 [rows,columns] with contiguous rows", x);
}

/// [parts, columns] for rows of x, or nothing.
void require_parts(const char* op, const char* name, const TensorView& parts, const TensorView& x) {
    if (parts.data == nullptr) return;
    require_rows(op, name, parts);
    const bool fits = parts.dim(1) == x.dim(1) && parts.dim(0) > 0 && x.dim(0) % parts.dim(0) == 0;
    require(fits && parts.device == x.device, op, name,
            fmt::format("f32 [parts,{}] on {}, with parts that divide {} rows", x.dim(1), x.device.describe(),
                        x.dim(0)),
            parts);
}

/// f32 of this shape, contiguous, on the device of x.
void require_array(const char* op, const char* name, const TensorView& got, const Shape& shape,
                   const TensorView& x) {
    require(got.dtype == DType::f32 && got.shape == shape && got.contiguous() && got.device == x.device, op,
            name, fmt::format("contiguous f32{} on {}", to_string(shape), x.device.describe()), got);
}

std::int64_t row_stride(const TensorView& rows) {
    return rows.strides.empty() ? rows.dim(1) : rows.strides[0];
}

const float* floats(const TensorView& view) {
    return static_cast<const float*>(view.data);
}

float* floats(const MutableView& view) {
    return static_cast<float*>(view.data);
}

/// f32, or bf16 on the CPU.
bool is_wide_or_bf16(const TensorView& x) {
    return x.dtype == DType::f32 || (x.dtype == DType::bf16 && x.device == Device::cpu);
}

/// As many float32 as take the memory of x.
std::int64_t as_floats(const TensorView& x) {
    return x.count() * static_cast<std::int64_t>(size_of(x.dtype)) / static_cast<std::int64_t>(sizeof(float));
}

void check(const Norm& args) {
    for (const auto& [name, array] : {std::pair{"x", args.x}, std::pair{"y", TensorView(args.y)}})
        require(is_wide_or_bf16(array) && are_rows(array), "norm", name,
                "f32, or bf16 on the CPU, [rows,columns] with contiguous rows", array);
    const bool alike_y = args.y.shape == args.x.shape && args.y.dtype == args.x.dtype;
    require(alike_y && args.y.device == args.x.device, "norm", "y", "like x", args.y);
    if (args.weight.data != nullptr) require_array("norm", "weight", args.weight, {args.x.dim(1)}, args.x);
    if (args.bias.data != nullptr) require_array("norm", "bias", args.bias, {args.x.dim(1)}, args.x);
    require_parts("norm", "scale", args.scale, args.x);
    require_parts("norm", "shift", args.shift, args.x);
    if (args.scale.data == nullptr || args.shift.data == nullptr) return;
    const bool alike =
        args.scale.shape == args.shift.shape && row_stride(args.scale) == row_stride(args.shift);
    require(alike, "norm", "shift", "like scale " + args.scale.describe(), args.shift);
}

/// Calls run(kernels of the device) as an operation that reads and writes so many elements in all.
template <typename Run>
void run_moving(std::string_view op, Device device, std::int64_t elements, const Context& context,
                const Run& run) {
    const ElementwiseKernels& kernels = elementwise_kernels(device);
    const auto bytes = static_cast<double>(elements) * sizeof(float);
    const Timed timed({.op = op, .kernel = kernels.name, .bytes = bytes});
    run_operation_on(
        device, [&] { run(kernels); }, context.threads);
}

/// Joins neighbouring axes that lie one in the other on both sides, and leaves those of one element out.
class CopyAxes {
  public:
    CopyAxes(const TensorView& x, const MutableView& y) {
        const Shape x_strides = strides_of(x), y_strides = strides_of(y);
        for (std::size_t axis = 0; axis < x.shape.size(); ++axis)
            add(x.shape[axis], x_strides[axis], y_strides[axis]);
        if (args.axes == 0) add(1, 1, 1, true);
    }

    CopyArgs args;

  private:
    void add(std::int64_t size, std::int64_t x_stride, std::int64_t y_stride, bool even_one = false) {
        if (size == 1 && !even_one) return;
        if (args.axes > 0) {
            const std::size_t last = args.axes - 1;
            if (args.x_strides[last] == size * x_stride && args.y_strides[last] == size * y_stride) {
                args.shape[last] *= size;
                args.x_strides[last] = x_stride;
                args.y_strides[last] = y_stride;
                return;
            }
        }
        args.shape[args.axes] = size;
        args.x_strides[args.axes] = x_stride;
        args.y_strides[args.axes] = y_stride;
        ++args.axes;
    }
};

void copy_between_devices(const TensorView& x, const MutableView& y) {
    const std::string wanted = fmt::format("contiguous {} on another device than x", to_string(x.dtype));
    require(x.contiguous() && y.contiguous() && x.dtype == y.dtype, "copy", "y", wanted, y);
    const std::size_t bytes = static_cast<std::size_t>(x.count()) * size_of(x.dtype);
    if (x.device == Device::cpu) return memory_of(y.device).from_host(y.device, y.data, x.data, bytes);
    if (y.device == Device::cpu) return memory_of(x.device).to_host(x.device, y.data, x.data, bytes);
    throw InvalidArgument(fmt::format("[copy] x or y must be on the CPU, got {} and {}", x.device.describe(),
                                      y.device.describe()));
}

/// Rows of bfloat16 on the CPU, each in float32 for the kernel and rounded once. `all` has the rest of the
/// call.
void norm_bfloat16(const ElementwiseKernels& kernels, const NormArgs& all, const TensorView& x,
                   const MutableView& y) {
    const Workspace memory(static_cast<std::size_t>(all.columns * num_threads()) * sizeof(float));
    auto* const wide = reinterpret_cast<float*>(memory.data());
    const std::int64_t together = std::max<std::int64_t>(1, 8192 / all.columns);  // rows of one task
    parallel_for((all.rows + together - 1) / together, [&](std::int64_t task, int worker) {
        NormArgs call = all;
        call.rows = 1;
        call.x = call.y = wide + worker * all.columns;
        for (std::int64_t row = task * together; row < std::min(all.rows, (task + 1) * together); ++row) {
            const std::int64_t part = row / all.rows_per_modulation * all.modulation_stride;
            call.scale = all.scale == nullptr ? nullptr : all.scale + part;
            call.shift = all.shift == nullptr ? nullptr : all.shift + part;
            widen(x.as<BFloat16>() + row * all.x_stride, all.columns, call.y);
            kernels.norm(call);
            narrow(call.y, all.columns, y.as<BFloat16>() + row * all.y_stride);
        }
    });
}

/// y = f(gate), times x where x has data, of bfloat16 rows on the CPU: computed in float32, rounded once.
struct Bfloat16Units {
    ActivationFunction function;
    TensorView gate, x;
    MutableView y;
    std::int64_t rows, columns;

    static constexpr std::int64_t kPiece = 2048;  ///< numbers that are widened at a time

    void piece(const ElementwiseKernels& kernels, std::int64_t row, std::int64_t first, float* wide) const {
        const std::int64_t count = std::min(kPiece, columns - first);
        widen(row_of(gate, row) + first, count, wide);
        if (x.data == nullptr) {
            kernels.activation({function, wide, wide, count, nullptr});
        } else {
            widen(row_of(x, row) + first, count, wide + kPiece);
            kernels.gated({function, 1, count, wide, count, wide + kPiece, count, wide, count, nullptr});
        }
        narrow(wide, count, static_cast<BFloat16*>(y.data) + row * stride_of(y) + first);
    }

    void run(const ElementwiseKernels& kernels) const {
        const std::int64_t pieces = (columns + kPiece - 1) / kPiece;
        const Workspace memory(static_cast<std::size_t>(2 * kPiece * num_threads()) * sizeof(float));
        auto* const wide = reinterpret_cast<float*>(memory.data());
        const std::int64_t together = std::max<std::int64_t>(1, 4 * kPiece / columns);  // rows of one task
        parallel_for((rows + together - 1) / together * pieces, [&](std::int64_t task, int worker) {
            const std::int64_t begin = task / pieces * together;
            for (std::int64_t row = begin; row < std::min(rows, begin + together); ++row)
                piece(kernels, row, task % pieces * kPiece, wide + worker * 2 * kPiece);
        });
    }

  private:
    std::int64_t stride_of(const TensorView& view) const {
        return view.strides.empty() ? columns : view.strides[0];
    }
    const BFloat16* row_of(const TensorView& view, std::int64_t row) const {
        return static_cast<const BFloat16*>(view.data) + row * stride_of(view);
    }
};

bool is_float(DType dtype) {
    return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

}  // namespace

const ElementwiseKernels& elementwise_kernels(Device device) {
    if (device != Device::cpu) return choose("elementwise", device, &Machine::elementwise, FloatRows{});
    static const ElementwiseKernels& chosen =
        choose("elementwise", Device::cpu, &Machine::elementwise, FloatRows{});
    return chosen;
}

void norm(const Norm& args, const Context& context) {
    check(args);
    NormArgs call;
    call.kind = args.kind;
    call.rows = args.x.dim(0);
    call.columns = args.x.dim(1);
    call.x = floats(args.x);
    call.x_stride = row_stride(args.x);
    call.y = floats(args.y);
    call.y_stride = row_stride(args.y);
    call.weight = floats(args.weight);
    call.bias = floats(args.bias);
    call.scale = floats(args.scale);
    call.shift = floats(args.shift);
    const TensorView& parts = call.scale != nullptr ? args.scale : args.shift;
    if (parts.data != nullptr) {
        call.rows_per_modulation = call.rows / parts.dim(0);
        call.modulation_stride = row_stride(parts);
    }
    call.epsilon = args.epsilon;
    call.silu = args.silu;
    call.stream = context.stream;
    if (call.rows == 0 || call.columns == 0) return;
    run_moving("norm", args.x.device, 2 * as_floats(args.x), context, [&](const ElementwiseKernels& kernels) {
        if (args.x.dtype == DType::bf16) return norm_bfloat16(kernels, call, args.x, args.y);
        kernels.norm(call);
    });
}

void activation(ActivationFunction function, const TensorView& x, const MutableView& y,
                const Context& context) {
    require(is_wide_or_bf16(x) && x.contiguous(), "activation", "x", "contiguous f32, or bf16 on the CPU", x);
    require(y.dtype == x.dtype && y.shape == x.shape && y.contiguous() && y.device == x.device, "activation",
            "y", fmt::format("contiguous {} on {}", x.describe(), x.device.describe()), y);
    if (x.count() == 0) return;
    run_moving("activation", x.device, 2 * as_floats(x), context, [&](const ElementwiseKernels& kernels) {
        if (x.dtype == DType::bf16) return Bfloat16Units{function, x, {}, y, 1, x.count()}.run(kernels);
        kernels.activation({function, floats(x), floats(y), x.count(), context.stream});
    });
}

void gated(ActivationFunction function, const TensorView& gate, const TensorView& x, const MutableView& y,
           const Context& context) {
    require(is_wide_or_bf16(gate) && are_rows(gate), "gated", "gate",
            "f32, or bf16 on the CPU, [rows,columns] with contiguous rows", gate);
    for (const auto& [name, array] : {std::pair{"x", x}, std::pair{"y", TensorView(y)}}) {
        const bool alike = array.dtype == gate.dtype && array.shape == gate.shape;
        require(alike && are_rows(array) && array.device == gate.device, "gated", name,
                fmt::format("like gate {} on {}", gate.describe(), gate.device.describe()), array);
    }
    const std::int64_t rows = x.dim(0), columns = x.dim(1);
    if (rows == 0 || columns == 0) return;
    run_moving("gated", x.device, 3 * as_floats(x), context, [&](const ElementwiseKernels& kernels) {
        if (gate.dtype == DType::bf16) return Bfloat16Units{function, gate, x, y, rows, columns}.run(kernels);
        kernels.gated({function, rows, columns, floats(gate), row_stride(gate), floats(x), row_stride(x),
                       floats(y), row_stride(y), context.stream});
    });
}

void rope(const Rope& args, const Context& context) {
    const TensorView x = args.x;
    require_rows("rope", "x", x);
    const std::int64_t heads = args.heads;
    if (heads < 1 || x.dim(1) % heads != 0 || x.dim(1) / heads % 2 != 0)
        throw InvalidArgument(
            fmt::format("[rope] heads must divide the columns into even sizes, got {} heads (x {})", heads,
                        x.describe()));
    const std::int64_t tokens = args.cos.shape.empty() ? 0 : args.cos.dim(0);
    const Shape table = {tokens, x.dim(1) / heads / 2};
    require_array("rope", "cos", args.cos, table, x);
    require_array("rope", "sin", args.sin, table, x);
    if (x.dim(0) == 0) return;
    require(tokens > 0, "rope", "cos", "of one token at least", args.cos);
    RopeArgs call;
    call.pairs = args.pairs;
    call.rows = x.dim(0);
    call.tokens = tokens;
    call.heads = heads;
    call.head_dim = x.dim(1) / heads;
    call.x = floats(args.x);
    call.x_stride = row_stride(x);
    call.cos = floats(args.cos);
    call.sin = floats(args.sin);
    call.stream = context.stream;
    run_moving("rope", x.device, 2 * call.rows * x.dim(1), context,
               [&](const ElementwiseKernels& kernels) { kernels.rope(call); });
}

void residual(const MutableView& x, const TensorView& y, const TensorView& gate, const Context& context) {
    require_rows("residual", "x", x);
    require_rows("residual", "y", y);
    const bool like_x = y.dim(1) == x.dim(1) && (y.dim(0) == x.dim(0) || y.dim(0) == 1);
    require(like_x && y.device == x.device, "residual", "y",
            fmt::format("like x {} on {}, or one row of it", x.describe(), x.device.describe()), y);
    require_parts("residual", "gate", gate, x);
    ResidualArgs call;
    call.rows = x.dim(0);
    call.columns = x.dim(1);
    call.x = floats(x);
    call.x_stride = row_stride(x);
    call.y = floats(y);
    call.y_stride = y.dim(0) == 1 ? 0 : row_stride(y);
    if (gate.data != nullptr) {
        call.gate = floats(gate);
        call.rows_per_gate = call.rows / gate.dim(0);
        call.gate_stride = row_stride(gate);
    }
    call.stream = context.stream;
    if (call.rows == 0 || call.columns == 0) return;
    run_moving("residual", x.device, 3 * call.rows * call.columns, context,
               [&](const ElementwiseKernels& kernels) { kernels.residual(call); });
}

void match_norms(const MutableView& x, const TensorView& like, const Context& context) {
    require_rows("match_norms", "x", x);
    require_array("match_norms", "x", x, x.shape, x);
    require_array("match_norms", "like", like, x.shape, x);
    run_moving("match_norms", x.device, 3 * x.count(), context, [&](const ElementwiseKernels& kernels) {
        kernels.match_norms({x.dim(0), x.dim(1), floats(x), floats(like), context.stream});
    });
}

void combine(std::initializer_list<Term> terms, const MutableView& y, bool wide, const Context& context) {
    if (terms.size() < 1 || terms.size() > CombineArgs::kMostTerms)
        throw InvalidArgument(
            fmt::format("[combine] takes 1 to {} terms, got {}", CombineArgs::kMostTerms, terms.size()));
    require(y.dtype == DType::f32 && y.contiguous(), "combine", "y", "contiguous f32", y);
    CombineArgs call;
    call.count = y.count();
    call.y = floats(y);
    call.wide = wide;
    call.stream = context.stream;
    for (const Term& term : terms) {
        require_array("combine", "x", term.x, y.shape, y);
        call.factor[call.terms] = term.factor;
        call.x[call.terms++] = floats(term.x);
    }
    if (call.count == 0) return;
    run_moving("combine", y.device, (static_cast<std::int64_t>(call.terms) + 1) * call.count, context,
               [&](const ElementwiseKernels& kernels) { kernels.combine(call); });
}

void copy(const TensorView& x, const MutableView& y, const Context& context) {
    require(is_float(x.dtype) && x.shape.size() <= CopyArgs::kMostAxes, "copy", "x",
            "f32, bf16 or f16 of at most 8 axes", x);
    require(is_float(y.dtype) && y.shape == x.shape, "copy", "y",
            fmt::format("f32, bf16 or f16 {}", to_string(x.shape)), y);
    if (x.count() == 0) return;
    if (x.device != y.device) return copy_between_devices(x, y);
    CopyArgs call = CopyAxes(x, y).args;
    call.x_type = x.dtype;
    call.y_type = y.dtype;
    call.x = x.data;
    call.y = y.data;
    call.stream = context.stream;
    run_moving("copy", x.device, 2 * x.count(), context,
               [&](const ElementwiseKernels& kernels) { kernels.copy(call); });
}

namespace {

GroupNormArgs group_norm_args(const TensorView& x, std::int64_t groups, const Context& context) {
    require(x.dtype == DType::f32 && x.shape.size() == 2 && x.contiguous(), "group_norm", "x",
            "contiguous f32 [rows,channels]", x);
    if (groups < 1 || x.dim(1) % groups != 0)
        throw InvalidArgument(fmt::format(
            "[group_norm] groups must divide the channels, got {} groups (x {})", groups, x.describe()));
    GroupNormArgs call = {x.dim(0), x.dim(1), groups, floats(x)};
    call.stream = context.stream;
    return call;
}

void run_group_norm(GroupNormArgs call, std::int64_t floats, const Device& device, const Context& context) {
    if (call.rows == 0 || call.channels == 0) return;
    run_moving("group_norm", device, floats, context, [&](const ElementwiseKernels& kernels) {
        const auto scratch =
            static_cast<std::size_t>(group_norm_floats(call.rows, call.channels)) * sizeof(float);
        const Workspace memory(scratch, device);
        call.workspace = reinterpret_cast<float*>(memory.data());
        kernels.group_norm(call);
    });
}

}  // namespace

void group_norm(const GroupNorm& args, const Context& context) {
    const TensorView& x = args.x;
    GroupNormArgs call = group_norm_args(x, args.groups, context);
    require_array("group_norm", "y", args.y, x.shape, x);
    if (args.weight.data != nullptr) require_array("group_norm", "weight", args.weight, {call.channels}, x);
    if (args.bias.data != nullptr) require_array("group_norm", "bias", args.bias, {call.channels}, x);
    if (args.moments.data != nullptr)
        require_array("group_norm", "moments", args.moments, {args.groups, 2}, x);
    call.y = floats(args.y);
    call.weight = floats(args.weight);
    call.bias = floats(args.bias);
    call.moments = floats(args.moments);
    call.epsilon = args.epsilon;
    call.silu = args.silu;
    run_group_norm(call, 3 * call.rows * call.channels, x.device, context);
}

Tensor group_moments(const TensorView& x, std::int64_t groups, const Context& context) {
    GroupNormArgs call = group_norm_args(x, groups, context);
    Tensor moments = Tensor::zeros(DType::f32, {groups, 2}, x.device);
    call.found = moments.mutable_as<float>();
    run_group_norm(call, call.rows * call.channels, x.device, context);
    return moments;
}

void softmax(const MutableView& x, float scale, const Context& context) {
    require_rows("softmax", "x", x);
    if (!(scale > 0.0F))
        throw InvalidArgument(fmt::format("[softmax] scale must be positive, got {}", scale));
    const SoftmaxArgs call = {x.dim(0), x.dim(1), floats(x), row_stride(x), scale, context.stream};
    if (call.rows == 0 || call.columns == 0) return;
    run_moving("softmax", x.device, 2 * call.rows * call.columns, context,
               [&](const ElementwiseKernels& kernels) { kernels.softmax(call); });
}

void clamp(const MutableView& x, float low, float high, const Context& context) {
    require(x.dtype == DType::f32 && x.contiguous(), "clamp", "x", "contiguous f32", x);
    if (!(low <= high))
        throw InvalidArgument(fmt::format("[clamp] low must not be above high, got {} and {}", low, high));
    const ClampArgs call = {floats(x), x.count(), low, high, false, context.stream};
    if (call.count == 0) return;
    run_moving("clamp", x.device, 2 * call.count, context,
               [&](const ElementwiseKernels& kernels) { kernels.clamp(call); });
}

void clear(const MutableView& y) {
    require(y.contiguous(), "clear", "y", "contiguous", y);
    memory_of(y.device).clear(y.device, y.data, static_cast<std::size_t>(y.count()) * size_of(y.dtype));
}

Difference difference(const Tensor& x, const Tensor& y, const RowRanges& rows, const Context& context) {
    require(x.dtype() == DType::f32 && x.shape().size() == 2, "difference", "x", "f32 [rows,columns]",
            x.view());
    require(y.dtype() == DType::f32 && y.shape() == x.shape(), "difference", "y", "like x", y.view());
    const std::int64_t columns = x.dim(1), all = rows.items * rows.count;
    require(rows.items * rows.each == x.dim(0) && rows.first + rows.count <= rows.each && all * columns > 0,
            "difference", "x", fmt::format("of {} x {} rows", rows.items, rows.each), x.view());
    const Tensor here = x.to(Device::cpu), other = y.to(Device::cpu);
    std::vector<Difference> sums(static_cast<std::size_t>(all));
    run_operation(
        [&] {
            parallel_for(all, [&](std::int64_t i, int) {
                const std::int64_t row = i / rows.count * rows.each + rows.first + i % rows.count;
                const float *a = here.as<float>() + row * columns, *b = other.as<float>() + row * columns;
                Difference& sum = sums[static_cast<std::size_t>(i)];
                for (std::int64_t c = 0; c < columns; ++c) {
                    sum.difference += static_cast<double>(std::fabs(a[c] - b[c]));
                    sum.size += static_cast<double>(std::fabs(b[c]));
                }
            });
        },
        context.threads);
    Difference mean;
    const auto count = static_cast<double>(all * columns);
    for (const Difference& sum : sums) {
        mean.difference += sum.difference / count;
        mean.size += sum.size / count;
    }
    return mean;
}

bool all_finite(const TensorView& x, const Context& context) {
    require(x.dtype == DType::f32 && x.contiguous(), "all_finite", "x", "contiguous f32", x);
    bool finite = true;
    if (x.count() == 0) return finite;
    run_moving("all_finite", x.device, x.count(), context, [&](const ElementwiseKernels& kernels) {
        finite = kernels.all_finite({floats(x), x.count(), context.stream});
    });
    return finite;
}

}  // namespace aerogel
