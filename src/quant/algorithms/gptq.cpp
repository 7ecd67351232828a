// GPTQ in double precision, sixteen rows at a time.
#include "quant/algorithms/gptq.h"

#include <fmt/format.h>

#include <Eigen/Cholesky>
#include <algorithm>
#include <vector>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "formats/int4.h"
#include "formats/int8.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using FloatMap = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

constexpr std::int64_t kRows = 16;

// What all rows share: the upper Cholesky factor U of H^-1 = U^T U, and the cut into blocks.
struct Plan {
    Matrix upper;
    DType dtype = DType::f32;
    IntegerGrid grid;
    bool offset = false;
    std::int64_t width = 0;  ///< columns of a scale
    std::int64_t block = 0;  ///< columns corrected at once; a group never begins inside
};

// H, with 1 on the diagonal of columns that never saw an input: nothing couples them, so they correct
// nothing.
Matrix hessian(const Tensor& x, double damping, std::vector<bool>& dead) {
    const FloatMap inputs(x.as<float>(), x.dim(0), x.dim(1));
    const Matrix wide = inputs.cast<double>();
    Matrix h = Matrix::Zero(x.dim(1), x.dim(1));
    h.selfadjointView<Eigen::Lower>().rankUpdate(wide.transpose(), 2.0 / static_cast<double>(x.dim(0)));
    h.triangularView<Eigen::StrictlyUpper>() = h.transpose();
    for (Eigen::Index k = 0; k < h.rows(); ++k) {
        dead.push_back(h(k, k) == 0.0);
        if (dead.back()) h(k, k) = 1.0;
    }
    h.diagonal().array() += damping * h.diagonal().mean();
    return h;
}

Matrix upper_factor_of_inverse(const Matrix& h, const TensorView& inputs) {
    const Eigen::LLT<Matrix> factor(h);
    Matrix inverse = factor.solve(Matrix::Identity(h.rows(), h.cols()));
    const Eigen::LLT<Matrix> result(inverse);
    if (factor.info() != Eigen::Success || result.info() != Eigen::Success || !inverse.allFinite()) {
        throw InvalidArgument(fmt::format(
            "[gptq] the Hessian of the recorded input {} is not positive definite: more damping is needed",
            inputs.describe()));
    }
    return result.matrixU();
}

IntegerScale group_scale(const Matrix& w, Eigen::Index row, std::int64_t first, const Plan& plan) {
    std::vector<float> values;
    for (std::int64_t k = first; k < first + plan.width; ++k) values.push_back(static_cast<float>(w(row, k)));
    return storable(minmax_scale_of(values, plan.grid, plan.offset), plan.dtype);
}

// Columns that are corrected at once.
struct Block {
    std::int64_t first;
    std::int64_t end;
};

// One row's columns of a block: w becomes the dequantized values, errors what the columns behind must
// correct.
void quantize_block(double* w, Block block, const Plan& plan, const std::vector<IntegerScale>& scales,
                    double* errors) {
    for (std::int64_t k = block.first; k < block.end; ++k) {
        const IntegerScale by = scales[static_cast<std::size_t>(k / plan.width)];
        const double decoded = (integer_code(w[k], by, plan.grid) - by.offset) * by.scale;
        const double error = (w[k] - decoded) / plan.upper(k, k);
        w[k] = decoded;
        errors[k - block.first] = error;
        for (std::int64_t j = k + 1; j < block.end; ++j) w[j] -= error * plan.upper(k, j);
    }
}

// Rows [0, w.rows()): w f64 becomes the dequantized values, scales [rows * groups].
void quantize_rows(Matrix& w, const Plan& plan, float* scale, float* offset) {
    const std::int64_t columns = w.cols(), groups = columns / plan.width;
    std::vector<std::vector<IntegerScale>> scales(static_cast<std::size_t>(w.rows()));
    if (groups == 1) {
        for (Eigen::Index row = 0; row < w.rows(); ++row) {
            scales[static_cast<std::size_t>(row)] = {group_scale(w, row, 0, plan)};
        }
    }
    Matrix errors(w.rows(), plan.block);
    for (std::int64_t first = 0; first < columns; first += plan.block) {
        const std::int64_t end = std::min(first + plan.block, columns);
        for (Eigen::Index row = 0; row < w.rows(); ++row) {
            auto& of_row = scales[static_cast<std::size_t>(row)];
            if (groups > 1 && first % plan.width == 0) of_row.push_back(group_scale(w, row, first, plan));
            quantize_block(&w(row, 0), {first, end}, plan, of_row, &errors(row, 0));
        }
        const std::int64_t behind = columns - end;
        w.rightCols(behind).noalias() -=
            errors.leftCols(end - first) * plan.upper.block(first, end, end - first, behind);
    }
    for (const auto& of_row : scales) {
        for (const IntegerScale& by : of_row) {
            *scale++ = static_cast<float>(by.scale);
            if (offset != nullptr) *offset++ = static_cast<float>(by.offset);
        }
    }
}

Plan make_plan(const Tensor& w, const TensorView& inputs, const GptqOptions& options, std::vector<bool>& dead,
               DType dtype) {
    if (!(options.damping >= 0.0) || options.block < 1) {
        throw InvalidArgument(
            fmt::format("[gptq] damping must not be negative and block at least 1, got {} and {}",
                        options.damping, options.block));
    }
    Plan plan;
    plan.grid = integer_grid("gptq", options.grid.format);
    plan.offset = options.grid.offset;
    plan.dtype = dtype;
    plan.width = group_width("gptq", w.dim(1), options.grid.group_size);
    plan.block = options.grid.group_size == 0 ? options.block : plan.width;
    const Tensor x = float_inputs("gptq", inputs, w.dim(1));
    plan.upper = upper_factor_of_inverse(hessian(x, options.damping, dead), inputs);
    return plan;
}

}  // namespace

QuantizedTensor quantize_gptq(const TensorView& weight, const TensorView& inputs,
                              const GptqOptions& options) {
    Tensor w = float_weight("gptq", weight);
    const std::int64_t rows = w.dim(0), columns = w.dim(1);
    std::vector<bool> dead;
    const Plan plan = make_plan(w, inputs, options, dead, weight.dtype);
    for (std::int64_t i = 0; i < w.count(); ++i) {
        if (dead[static_cast<std::size_t>(i % columns)]) w.mutable_as<float>()[i] = 0.0F;
    }
    const std::int64_t groups = columns / plan.width;
    Tensor scale(DType::f32, {rows, groups});
    Tensor offset = plan.offset ? Tensor(DType::f32, {rows, groups}) : Tensor();
    parallel_for((rows + kRows - 1) / kRows, [&](std::int64_t chunk, int) {
        const std::int64_t first = chunk * kRows;
        float* values = w.mutable_as<float>() + first * columns;
        const std::int64_t count = std::min(kRows, rows - first);
        Matrix wide = FloatMap(values, count, columns).cast<double>();
        quantize_rows(wide, plan, scale.mutable_as<float>() + first * groups,
                      plan.offset ? offset.mutable_as<float>() + first * groups : nullptr);
        for (std::int64_t i = 0; i < count * columns; ++i) values[i] = static_cast<float>(wide.data()[i]);
    });
    // The values are on the grid already: this finds their codes again.
    return plan.grid.largest > 7.0 ? encode_int8(w, scale, offset) : encode_int4(w, scale, offset);
}

}  // namespace aerogel
