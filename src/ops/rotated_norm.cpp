// Few rows at a time, so that the float32 row between the two steps stays in the first cache.
#include "ops/rotated_norm.h"

#include <fmt/format.h>

#include <algorithm>

#include "aerogel/error.h"
#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "base/timed.h"
#include "core/views.h"
#include "ops/bfloat16_rows.h"
#include "ops/elementwise.h"
#include "ops/workspace.h"

namespace aerogel {
namespace {

void require(bool fits, const char* name, const std::string& expected, const TensorView& got) {
    if (!fits)
        throw InvalidArgument(
            fmt::format("[rotated_norm] {} must be {}, got {}", name, expected, got.describe()));
}

void check(const RotatedNorm& args) {
    const TensorView& x = args.x;
    require(x.shape.size() == 3 && (x.dtype == DType::f32 || x.dtype == DType::bf16) && strides_of(x)[2] == 1,
            "x", "f32 or bf16 [batch,tokens,columns] with contiguous rows", x);
    for (const auto& [name, view] :
         {std::pair{"x", args.x}, std::pair{"y", TensorView(args.y)}, std::pair{"weight", args.weight},
          std::pair{"cos", args.cos}, std::pair{"sin", args.sin}})
        require(view.device == Device::cpu, name, "on the CPU", view);
    const std::int64_t tokens = x.dim(1), columns = x.dim(2);
    if (args.heads < 1 || columns % args.heads != 0 || columns / args.heads % 2 != 0)
        throw InvalidArgument(
            fmt::format("[rotated_norm] heads must divide the columns into even sizes, got {} heads (x {})",
                        args.heads, x.describe()));
    require(args.y.dtype == x.dtype && args.y.shape == x.shape && args.y.contiguous(), "y",
            "contiguous and like x", args.y);
    const auto table = fmt::format("contiguous f32 [{},{}]", tokens, columns / args.heads / 2);
    for (const auto& [name, view] : {std::pair{"cos", args.cos}, std::pair{"sin", args.sin}}) {
        require(view.dtype == DType::f32 && view.shape == Shape{tokens, columns / args.heads / 2} &&
                    view.contiguous(),
                name, table, view);
    }
    const std::int64_t normed = args.per_head ? columns / args.heads : columns;
    require(args.weight.data == nullptr || (args.weight.dtype == DType::f32 &&
                                            args.weight.shape == Shape{normed} && args.weight.contiguous()),
            "weight", fmt::format("contiguous f32 [{}]", normed), args.weight);
}

/// One row in float32, in place.
void rotate_norm(const RotatedNorm& args, std::int64_t token, float* row) {
    const std::int64_t columns = args.x.dim(2), half = columns / args.heads / 2;
    NormArgs normed;
    normed.kind = NormKind::rms;
    normed.rows = args.per_head ? args.heads : 1;
    normed.columns = columns / normed.rows;
    normed.x = normed.y = row;
    normed.x_stride = normed.y_stride = normed.columns;
    normed.weight = args.weight.data == nullptr ? nullptr : args.weight.as<float>();
    normed.epsilon = args.epsilon;
    elementwise_kernels(Device::cpu).norm(normed);
    RopeArgs rotated;
    rotated.rows = rotated.tokens = 1;
    rotated.heads = args.heads;
    rotated.head_dim = 2 * half;
    rotated.x = row;
    rotated.x_stride = columns;
    rotated.cos = args.cos.as<float>() + token * half;
    rotated.sin = args.sin.as<float>() + token * half;
    elementwise_kernels(Device::cpu).rope(rotated);
}

constexpr std::int64_t kRowsPerTask = 16;

std::int64_t row_count(const RotatedNorm& args) {
    return args.x.dim(0) * args.x.dim(1);
}

/// The rows of one task; `wide` holds one of bfloat16 in float32.
void rotate_rows(const RotatedNorm& args, std::int64_t task, float* wide) {
    const std::int64_t tokens = args.x.dim(1), columns = args.x.dim(2);
    const Shape strides = strides_of(args.x);
    const std::int64_t last = std::min(row_count(args), (task + 1) * kRowsPerTask);
    for (std::int64_t r = task * kRowsPerTask; r < last; ++r) {
        const std::int64_t token = r % tokens;
        const std::int64_t from = r / tokens * strides[0] + token * strides[1];
        if (args.x.dtype == DType::bf16) {
            widen(args.x.as<BFloat16>() + from, columns, wide);
            rotate_norm(args, token, wide);
            narrow(wide, columns, args.y.as<BFloat16>() + r * columns);
        } else {
            float* row = args.y.as<float>() + r * columns;
            if (const float* source = args.x.as<float>() + from; source != row)
                std::copy_n(source, columns, row);
            rotate_norm(args, token, row);
        }
    }
}

}  // namespace

void rotated_norm(const RotatedNorm& args, const Context& context) {
    check(args);
    const std::int64_t tasks = (row_count(args) + kRowsPerTask - 1) / kRowsPerTask;
    const auto rotate = [&] {
        if (args.x.dtype == DType::f32)
            return parallel_for(tasks, [&](std::int64_t task, int) { rotate_rows(args, task, nullptr); });
        const std::int64_t columns = args.x.dim(2);
        const Workspace memory(static_cast<std::size_t>(columns * num_threads()) * sizeof(float));
        auto* const wide = reinterpret_cast<float*>(memory.data());
        parallel_for(
            tasks, [&](std::int64_t task, int worker) { rotate_rows(args, task, wide + worker * columns); });
    };
    const auto bytes = static_cast<double>(2 * args.x.count()) * static_cast<double>(size_of(args.x.dtype));
    const Timed timed(
        {.op = "rotated_norm", .kernel = elementwise_kernels(Device::cpu).name, .bytes = bytes});
    run_operation(rotate, context.threads);
}

}  // namespace aerogel
