// Randomised SVD in double precision.
#include "quant/algorithms/low_rank.h"

#include <fmt/format.h>

#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <vector>

#include "aerogel/error.h"
#include "base/random.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

using Matrix = Eigen::MatrixXd;
using FloatMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using FloatMap = Eigen::Map<const FloatMatrix>;

Matrix orthonormal(const Matrix& a) {
    const Eigen::HouseholderQR<Matrix> qr(a);
    return qr.householderQ() * Matrix::Identity(a.rows(), a.cols());
}

// Orthonormal columns that nearly span the largest left singular directions of w.
Matrix range_basis(const Matrix& w, const LowRankOptions& options) {
    const std::int64_t smaller = std::min(w.rows(), w.cols());
    const std::int64_t width = std::min(options.rank + options.oversampling, smaller);
    std::vector<float> noise(static_cast<std::size_t>(w.cols() * width));
    fill_normal(noise, options.seed);
    const FloatMap sketch(noise.data(), w.cols(), width);
    Matrix q = orthonormal(w * sketch.cast<double>());
    for (int i = 0; i < options.power_iterations; ++i) q = orthonormal(w * orthonormal(w.transpose() * q));
    return q;
}

Tensor stored(const Matrix& values, DType dtype) {
    Tensor result(DType::f32, {values.rows(), values.cols()});
    Eigen::Map<FloatMatrix>(result.mutable_as<float>(), values.rows(), values.cols()) = values.cast<float>();
    return result.to(dtype);
}

Matrix rounded(const Tensor& tensor) {
    const Tensor values = tensor.to(DType::f32);
    return FloatMap(values.as<float>(), values.dim(0), values.dim(1)).cast<double>();
}

}  // namespace

LowRank split_low_rank(const TensorView& weight, const LowRankOptions& options) {
    const Tensor values = float_weight("low_rank", weight);
    const std::int64_t smaller = std::min(values.dim(0), values.dim(1));
    if (options.rank < 1 || options.rank > smaller || options.oversampling < 0 ||
        options.power_iterations < 0) {
        throw InvalidArgument(fmt::format(
            "[low_rank] rank must be in [1, {}] for {}, oversampling and power "
            "iterations not negative, got {}, {}, {}",
            smaller, weight.describe(), options.rank, options.oversampling, options.power_iterations));
    }
    const Matrix w = FloatMap(values.as<float>(), values.dim(0), values.dim(1)).cast<double>();
    const Matrix q = range_basis(w, options);
    // The small side of q^T w is at most rank + oversampling: Jacobi is accurate and cheap enough there.
    const Matrix small = (q.transpose() * w).transpose();
    const Eigen::JacobiSVD<Matrix> svd(small, Eigen::ComputeThinU | Eigen::ComputeThinV);
    const Matrix l1 = svd.matrixU().leftCols(options.rank).transpose();
    const Matrix l2 =
        q * svd.matrixV().leftCols(options.rank) * svd.singularValues().head(options.rank).asDiagonal();
    const DType type = options.type.value_or(weight.dtype);
    LowRank result{stored(l1, type), stored(l2, type), Tensor()};
    result.residual = stored(w - rounded(result.l2) * rounded(result.l1), DType::f32);
    return result;
}

}  // namespace aerogel
