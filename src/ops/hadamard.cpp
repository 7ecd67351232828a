// Chooses the Hadamard kernel of the device.
#include "ops/hadamard.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "base/timed.h"
#include "ops/dispatch.h"

namespace aerogel {
namespace {

bool fits(const TensorView& matrix, const TensorView& like) {
    return matrix.dtype == DType::f32 && matrix.shape.size() == 2 && matrix.contiguous() &&
           matrix.shape == like.shape && matrix.device == like.device;
}

}  // namespace

void hadamard_rows(const TensorView& x, const MutableView& y, RotationShape shape, const Tensor& signs,
                   const Context& context) {
    if (!fits(x, x) || !fits(y, x) || x.data == y.data) {
        throw InvalidArgument(
            fmt::format("[hadamard] x and y must be different contiguous f32 matrices of one shape "
                        "on one device, got x {}, y {}",
                        x.describe(), y.describe()));
    }
    const std::int64_t columns = x.dim(1);
    if (!is_rotation_block(shape) || columns % shape.block != 0) {
        throw InvalidArgument(
            fmt::format("[hadamard] block must be a power of {} that divides the {} columns, got {}",
                        shape.kind == RotationKind::hadamard ? "two" : "four", columns, shape.block));
    }
    if (signs.defined() &&
        (signs.dtype() != DType::f32 || signs.shape() != Shape{columns} || signs.device() != x.device)) {
        throw InvalidArgument(
            fmt::format("[hadamard] signs must be f32[{}], got {}", columns, signs.describe()));
    }
    const HadamardKernel& kernel =
        choose("hadamard", x.device, &Machine::hadamard, RotationProblem{shape.kind});
    HadamardArgs args;
    args.rows = x.dim(0);
    args.columns = columns;
    args.block = shape.block;
    args.kind = shape.kind;
    args.x = static_cast<const float*>(x.data);
    args.x_stride = columns;
    args.y = static_cast<float*>(y.data);
    args.y_stride = columns;
    args.signs = signs.defined() ? signs.as<float>() : nullptr;
    args.stream = context.stream;
    if (args.rows == 0) return;
    const auto bytes = static_cast<double>(2 * x.count()) * sizeof(float);
    const Timed timed({.op = "hadamard", .kernel = kernel.name, .bytes = bytes});
    run_operation_on(
        x.device, [&] { kernel.run(args); }, context.threads);
}

}  // namespace aerogel
