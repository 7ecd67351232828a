// Row by row, so that no copy of the matrix is needed.
#include "quant/weight_error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "formats/format.h"
#include "quant/algorithms/weight_rows.h"
#include "quant/restore.h"

namespace aerogel {
namespace {

struct RowError {
    double error = 0.0;  ///< sum of squares
    double norm = 0.0;
};

// Sums in lanes, so that they become vector code.
RowError row_error(const float* x, const float* y, std::int64_t count) {
    constexpr std::int64_t kLanes = 8;
    std::array<double, kLanes> error = {}, norm = {};
    const auto add = [&](std::int64_t i, std::size_t lane) {
        const double value = x[i], difference = value - static_cast<double>(y[i]);
        error[lane] += difference * difference;
        norm[lane] += value * value;
    };
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (std::int64_t lane = 0; lane < kLanes; ++lane) add(i + lane, static_cast<std::size_t>(lane));
    }
    for (; i < count; ++i) add(i, 0);
    return {std::accumulate(error.begin(), error.end(), 0.0), std::accumulate(norm.begin(), norm.end(), 0.0)};
}

}  // namespace

double relative_error(const TensorView& weight, const QuantizedLinearWeights& layer) {
    const QuantizedTensor& quantized = layer.weight;
    const bool plain = !layer.rotation.defined() && !layer.low_rank_l1.defined();
    const Tensor whole = plain ? Tensor() : restored_weight(layer);
    const auto columns = static_cast<std::size_t>(quantized.columns);
    std::vector<RowError> rows(static_cast<std::size_t>(quantized.rows));
    run_operation([&] {
        std::vector<float> scratch(2 * static_cast<std::size_t>(num_threads()) * columns);
        parallel_for(quantized.rows, [&](std::int64_t row, int worker) {
            float* original = scratch.data() + 2 * static_cast<std::size_t>(worker) * columns;
            float* decoded = original + columns;
            widen_row(weight, row, original);
            if (plain) {
                decode_row(quantized, row, decoded);
            } else {
                std::copy_n(whole.as<float>() + row * quantized.columns, columns, decoded);
            }
            rows[static_cast<std::size_t>(row)] = row_error(original, decoded, quantized.columns);
        });
    });
    RowError sum;
    for (const RowError& row : rows) {
        sum.error += row.error;
        sum.norm += row.norm;
    }
    return sum.norm == 0.0 ? 0.0 : std::sqrt(sum.error / sum.norm);
}

}  // namespace aerogel
