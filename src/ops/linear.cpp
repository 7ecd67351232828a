// Checks, kernel choice and scratch memory of all linear layers; and the float layer.
#include "ops/linear.h"

#include <cstdlib>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/linear.h"
#include "base/thread_pool.h"
#include "base/timed.h"
#include "core/views.h"
#include "formats/format.h"
#include "ops/dispatch.h"
#include "ops/workspace.h"

namespace aerogel {
namespace {

[[noreturn]] void refuse(const std::string& what) {
    throw InvalidArgument("[linear] " + what);
}

struct Rows {
    std::int64_t count = 0;
    std::int64_t stride = 0;
};

/// Leading axes flattened to rows; a 2-D view may have gaps between its rows.
Rows rows_of(const TensorView& view, const char* name, std::int64_t columns, Device device) {
    const std::string described = std::string(name) + " " + view.describe();
    if (view.device != device)
        refuse(described + " must be on " + (device == Device::cpu ? "the CPU" : device.describe()));
    if (view.shape.empty() || view.shape.back() != columns) {
        refuse(std::string(name) + " must have " + std::to_string(columns) + " columns, got " + described);
    }
    Rows rows;
    rows.count = view.count() / columns;
    if (rows.count != 0 && view.data == nullptr) refuse(described + " has no data");
    rows.stride = columns;
    if (view.contiguous()) return rows;
    if (view.shape.size() != 2 || view.strides.size() != 2 || (view.strides[1] != 1 && columns != 1)) {
        refuse(described + " must be contiguous, or 2-D with contiguous rows");
    }
    rows.stride = view.strides[0];
    return rows;
}

/// Each row is written once, and no row of x before it is read.
void check_apart(const TensorView& x, const MutableView& y, const Rows& out) {
    if (out.count > 1 && std::abs(out.stride) < y.shape.back())
        refuse("the rows of y " + y.describe() + " must not overlap, got a row every " +
               std::to_string(out.stride) + " elements");
    if (overlap(x, y)) refuse("x " + x.describe() + " and y " + y.describe() + " must not share memory");
}

LinearProblem problem_of(const QuantizedTensor& weight, Activation activation) {
    LinearProblem problem;
    problem.n = weight.rows;
    problem.k = weight.columns;
    problem.weight = weight.format;
    problem.activation = activation;
    problem.group_size = weight.group_size == weight.columns ? 0 : weight.group_size;
    problem.weight_offset = weight.offset.defined();
    problem.dual_block = weight.dual_block;
    return problem;
}

OperationCost cost_of(const LinearProblem& problem, const LinearKernel& kernel, std::size_t packed_bytes) {
    const bool bf16 = problem.x == DType::bf16 && problem.weight == Format::bf16;
    const auto m = static_cast<double>(problem.m), n = static_cast<double>(problem.n),
               k = static_cast<double>(problem.k);
    const double rows =
        m * (k * static_cast<double>(size_of(problem.x)) + n * static_cast<double>(size_of(problem.y)));
    return {.op = "linear",
            .kernel = kernel.name,
            .arithmetic = is_integer(problem.activation) ? Arithmetic::int8
                          : bf16                         ? Arithmetic::bf16
                                                         : Arithmetic::f32,
            .operations = 2.0 * m * n * k,
            .bytes = rows + static_cast<double>(packed_bytes)};
}

void check_float_weight(DType dtype, const Shape& shape) {
    const TensorView weight{dtype, shape, nullptr, {}, Device::cpu};
    if (shape.size() != 2) refuse("the weight must be a matrix, got " + weight.describe());
    if (shape[0] < 1 || shape[1] < 1)
        refuse("a weight needs at least one row and one column, got " + weight.describe());
    if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16)
        refuse("a float weight must be f32, bf16 or f16, got " + weight.describe());
}

QuantizedTensor float_weight(const Tensor& weight) {
    QuantizedTensor out;
    out.format = weight.dtype() == DType::bf16 ? Format::bf16 : Format::f32;
    out.rows = weight.dim(0);
    out.columns = weight.dim(1);
    out.data = weight.dtype() == DType::f16 ? weight.to(DType::f32) : weight;
    return out;
}

StoredWeight as_stored(const Tensor& weight) {
    if (!weight.defined()) refuse("the weight must be a matrix, got nothing");
    return {
        .dtype = weight.dtype(), .shape = weight.shape(), .stored_bytes = weight.bytes(), .read = [weight] {
            return weight;
        }};
}

}  // namespace

PackedLinear::PackedLinear(const QuantizedTensor& weight, Activation activation, Device device)
    : problem_(problem_of(weight, activation)) {
    const FormatRow& row = format_row(weight.format);
    if (weight.rows < 1 || weight.columns < 1) {
        refuse("a weight needs at least one row and one column, got " + std::to_string(weight.rows) + " x " +
               std::to_string(weight.columns));
    }
    const QuantizedTensor here = weight.to(Device::cpu);
    if (const std::string wrong = row.problem(here); !wrong.empty()) {
        refuse(std::string(row.name) + " weight: " + wrong);
    }
    kernel_ = &choose("linear", device, &Machine::linear, problem_);
    Tensor packed(DType::u8, {static_cast<std::int64_t>(kernel_->packed_bytes(problem_))});
    run_operation([&] { kernel_->pack(problem_, here, static_cast<std::byte*>(packed.mutable_data())); });
    packed_ = PackedArray(packed, device);
}

bool PackedLinear::serves(Activation activation) const {
    if (!same_packing(activation, problem_.activation)) return false;
    LinearProblem problem = problem_;
    problem.activation = activation;
    return kernel_->why_not(problem).empty();
}

void PackedLinear::run(const TensorView& x, const MutableView& y, Activation activation, LinearArgs args,
                       const Context& context) const {
    if (x.dtype != DType::f32 && x.dtype != DType::bf16 && !(takes_f16() && x.dtype == DType::f16))
        refuse("x " + x.describe() + " must be f32" + (takes_f16() ? ", bf16 or f16" : " or bf16"));
    if (y.dtype != DType::f32 && y.dtype != DType::bf16 && y.dtype != DType::f16) {
        refuse("y " + y.describe() + " must be f32, bf16 or f16");
    }
    const Rows in = rows_of(x, "x", problem_.k, packed_.device());
    const Rows out = rows_of(y, "y", problem_.n, packed_.device());
    if (in.count != out.count) {
        refuse("x and y must have as many rows (x " + x.describe() + ", y " + y.describe() + ")");
    }
    if (!same_packing(activation, problem_.activation)) {
        refuse("the weight was packed for " + problem_.describe() + ", not for " +
               std::string(to_string(activation)) + " activations");
    }
    if (activation == Activation::per_tensor && (args.quant_bias == nullptr || args.deq_scale == nullptr)) {
        refuse("static activation scales need quant_bias and deq_scale");
    }
    if (in.count == 0) return;
    check_apart(x, y, out);
    LinearProblem problem = problem_;
    problem.m = in.count;
    problem.x = x.dtype;
    problem.y = y.dtype;
    problem.activation = activation;
    problem.rotated = args.rotation.shape.block != 0;
    if (problem.rotated && !rotates(args.rotation.shape))
        refuse(std::string(kernel_->name) + " rotates no rows in blocks of " +
               std::to_string(args.rotation.shape.block));
    if (args.column_order != nullptr && !orders())
        refuse(std::string(kernel_->name) + " takes the columns of x in their own order only");
    if (activation != problem_.activation) {
        if (const std::string reason = kernel_->why_not(problem); !reason.empty()) refuse(reason);
    }
    args.x = x.data;
    args.x_stride = in.stride;
    args.y = y.data;
    args.y_stride = out.stride;
    args.packed = packed_.data();
    args.stream = context.stream;
    const Timed timed(cost_of(problem, *kernel_, packed_.bytes()));
    const auto run = [&] {
        const Workspace memory(kernel_->workspace_bytes(problem), packed_.device());
        args.workspace = memory.data();
        kernel_->run(problem, args);
    };
    run_operation_on(packed_.device(), run, context.threads);
}

struct FloatLinear::State {
    State(StoredWeight stored, Tensor added, Device place, std::size_t stored_bytes)
        : weight(std::move(stored)), bias(std::move(added)), device(place), bytes(stored_bytes) {}

    StoredWeight weight;
    Tensor bias;
    Device device;
    std::size_t bytes;
    Tensor read() const {
        Tensor matrix = weight.read();
        if (matrix.defined() && matrix.dtype() == weight.dtype && matrix.shape() == weight.shape)
            return matrix;
        const TensorView announced{weight.dtype, weight.shape, nullptr, {}, Device::cpu};
        refuse("the weight that is read must be " + announced.describe() + ", got " +
               (matrix.defined() ? matrix.describe() : "nothing"));
    }

    mutable std::once_flag once = {};
    mutable std::optional<PackedLinear> packed_once = {};

    // A call that throws leaves the next one to try again.
    const PackedLinear& packed() const {
        std::call_once(once, [this] {
            packed_once.emplace(float_weight(read()), Activation::none, device);
            if (weight.check) weight.check();
            if (weight.release) weight.release();
        });
        return *packed_once;
    }
};

FloatLinear::FloatLinear(const Tensor& weight, Tensor bias)
    : FloatLinear(weight, std::move(bias), weight.device()) {}

FloatLinear::FloatLinear(const Tensor& weight, Tensor bias, Device device)
    : FloatLinear(as_stored(weight), std::move(bias), device) {
    if (!weight.read_only()) state_->packed();
}

FloatLinear::FloatLinear(StoredWeight weight, Tensor bias, Device device) {
    check_float_weight(weight.dtype, weight.shape);
    if (!weight.read) refuse("a stored weight needs `read`, which gives it");
    std::size_t bytes = weight.stored_bytes;
    if (bias.defined()) {
        if (bias.shape() != Shape{weight.shape[0]}) {
            const TensorView matrix{weight.dtype, weight.shape, nullptr, {}, Device::cpu};
            refuse("bias must be [" + std::to_string(weight.shape[0]) + "], got " + bias.describe() +
                   " (weight " + matrix.describe() + ")");
        }
        bytes += bias.bytes();
        bias = bias.to(DType::f32).to(device);  // its own copy: the weight's packed form is one too
    }
    state_ = std::make_unique<State>(std::move(weight), std::move(bias), device, bytes);
}

FloatLinear::~FloatLinear() = default;

std::int64_t FloatLinear::in_features() const {
    return state_->weight.shape[1];
}

std::int64_t FloatLinear::out_features() const {
    return state_->weight.shape[0];
}

void FloatLinear::forward(const TensorView& x, const MutableView& y, const StepContext& step) const {
    LinearArgs args;
    if (state_->bias.defined()) args.bias = state_->bias.as<float>();
    state_->packed().run(x, y, Activation::none, args, step.call);
}

std::size_t FloatLinear::weight_bytes() const {
    return state_->bytes;
}

Tensor FloatLinear::weight() const {
    return state_->read();
}

const StoredWeight& FloatLinear::stored() const {
    return state_->weight;
}

void FloatLinear::move_weight(WeightPlace place) {
    if (state_->packed_once) state_->packed_once->move(place);
    move_array(state_->bias, place, state_->device);
}

const Tensor& FloatLinear::bias() const {
    return state_->bias;
}

}  // namespace aerogel
