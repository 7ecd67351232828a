// All integers first; then one query row at a time: integer scores, then group by group weights in eight bits
// and exact integer sums. Everything that is not an integer is double. Rows are independent tasks.
#include "kernels/reference/kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "kernels/reference/rows.h"

namespace aerogel::reference {
namespace {

constexpr std::int64_t kGroup = kQuantizedKeyGroup;
constexpr double kUnkept = -std::numeric_limits<double>::infinity();
constexpr double kLog2E = 1.4426950408889634;

/// In float, as the contract says: the integers of all kernels are the same.
std::int8_t quantize(float value, float scale, float offset) {
    const float q = value / scale + offset;
    if (std::isnan(q)) return 0;
    return static_cast<std::int8_t>(std::lrint(std::clamp(q, -128.0F, 127.0F)));
}

float at_or_zero(const float* values, std::int64_t index) {
    return values == nullptr ? 0.0F : values[index];
}

/// The integers of all maps, [maps][tokens][head_dim].
struct Integers {
    std::int8_t* q;
    std::int8_t* k;
    std::int8_t* v;
};

std::int64_t key_groups(const AttentionProblem& problem) {
    return (problem.k_len + kGroup - 1) / kGroup;
}

void quantize_query(const AttentionProblem& problem, const AttentionCall& call, std::int64_t row,
                    std::int8_t* out) {
    const std::int64_t map = row / problem.q_len;
    const std::int64_t at = row_start(call.q_strides, problem.heads, map, row % problem.q_len);
    const float offset = at_or_zero(call.int8.q_offset, map);
    for (std::int64_t c = 0; c < problem.head_dim; ++c)
        out[c] = quantize(load(call.q, problem.dtype, at + c), call.int8.q_scale[row], offset);
}

void quantize_key(const AttentionProblem& problem, const AttentionCall& call, std::int64_t row,
                  std::int8_t* out) {
    const std::int64_t map = row / problem.k_len;
    const std::int64_t at = row_start(call.k_strides, problem.kv_heads, map, row % problem.k_len);
    const float offset = at_or_zero(call.int8.k_offset, map);
    for (std::int64_t c = 0; c < problem.head_dim; ++c) {
        const float mean = at_or_zero(call.int8.k_mean, map * problem.head_dim + c);
        out[c] = quantize(load(call.k, problem.dtype, at + c) - mean, call.int8.k_scale[row], offset);
    }
}

void quantize_value(const AttentionProblem& problem, const AttentionCall& call, std::int64_t row,
                    std::int8_t* out) {
    const std::int64_t map = row / problem.k_len, key = row % problem.k_len;
    const std::int64_t at = row_start(call.v_strides, problem.kv_heads, map, key);
    const float* scales = call.int8.v_scale + (map * key_groups(problem) + key / kGroup) * problem.head_dim;
    const float offset = at_or_zero(call.int8.v_offset, map);
    for (std::int64_t c = 0; c < problem.head_dim; ++c) {
        const float mean = at_or_zero(call.int8.v_mean, map * problem.head_dim + c);
        out[c] = quantize(load(call.v, problem.dtype, at + c) - mean, scales[c], offset);
    }
}

/// One query row of one map.
class Row {
  public:
    Row(const AttentionProblem& problem, const AttentionCall& call, const Integers& integers,
        std::int64_t row, double* scratch)
        : problem_(problem),
          call_(call),
          integers_(integers),
          map_(row / problem.q_len),
          kv_map_(map_ / problem.group()),
          query_(row % problem.q_len),
          products_(scratch),
          sums_(scratch + problem.k_len) {}

    void run() {
        score();
        double largest = kUnkept;
        for (std::int64_t key = 0; key < problem_.k_len; ++key)
            if (kept(key)) largest = std::max(largest, products_[key]);
        double weights = 0.0;
        std::fill_n(sums_, problem_.head_dim, 0.0);
        for (std::int64_t first = 0; first < problem_.k_len; first += kGroup)
            add_group(first, largest, weights);
        write(weights);
        if (!problem_.wants_lse) return;
        const double sum = std::log(weights / static_cast<double>(kWideWeight));
        lse_at(problem_, call_, map_, query_) = static_cast<float>(largest / kLog2E + sum);
    }

  private:
    std::int64_t q_row() const { return map_ * problem_.q_len + query_; }
    bool kept(std::int64_t key) const { return products_[key] != kUnkept; }

    /// products_ = f * x, or kUnkept.
    void score() {
        const double factor =
            static_cast<double>(call_.int8.q_scale[q_row()]) * static_cast<double>(call_.scale) * kLog2E;
        std::fill_n(products_, problem_.k_len, kUnkept);
        visit_keys(problem_, call_.mask, map_, query_, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t key = first; key < last; ++key) products_[key] = factor * product(key);
        });
    }

    double product(std::int64_t key) const {
        const auto offset = static_cast<std::int64_t>(at_or_zero(call_.int8.q_offset, map_));
        const std::int8_t* q = integers_.q + q_row() * problem_.head_dim;
        const std::int64_t k_row = kv_map_ * problem_.k_len + key;
        const std::int8_t* k = integers_.k + k_row * problem_.head_dim;
        std::int64_t sum = 0;
        for (std::int64_t c = 0; c < problem_.head_dim; ++c) sum += (q[c] - offset) * k[c];
        return static_cast<double>(sum) * static_cast<double>(call_.int8.k_scale[k_row]);
    }

    void add_group(std::int64_t first, double largest, double& weights) {
        const std::int64_t last = std::min(first + kGroup, problem_.k_len);
        double top = kUnkept;
        for (std::int64_t key = first; key < last; ++key) {
            if (std::isnan(products_[key])) weights = std::nan("");
            if (kept(key)) top = std::max(top, products_[key]);
        }
        if (top == kUnkept || std::isnan(weights)) return;
        const double factor = std::exp2(top - largest);
        double p[kGroup];
        for (std::int64_t key = first; key < last; ++key) {
            p[key - first] = kept(key) ? std::nearbyint(kWideWeight * std::exp2(products_[key] - top)) : 0.0;
            weights += factor * p[key - first];
        }
        const float* scales =
            call_.int8.v_scale + (kv_map_ * key_groups(problem_) + first / kGroup) * problem_.head_dim;
        const std::int8_t* v = integers_.v + (kv_map_ * problem_.k_len + first) * problem_.head_dim;
        for (std::int64_t c = 0; c < problem_.head_dim; ++c) {
            double sum = 0.0;  // of integers below 2^53: exact
            for (std::int64_t i = 0; i < last - first; ++i) sum += p[i] * v[i * problem_.head_dim + c];
            sums_[c] += factor * sum * static_cast<double>(scales[c]);
        }
    }

    void write(double weights) const {
        for (std::int64_t c = 0; c < problem_.head_dim; ++c) {
            const double shift =
                static_cast<double>(at_or_zero(call_.int8.v_shift, kv_map_ * problem_.head_dim + c));
            // A row without keys has no weights at all.
            const auto value = weights == 0.0 ? 0.0F : static_cast<float>(sums_[c] / weights + shift);
            const std::int64_t place = row_start(call_.o_strides, problem_.heads, map_, query_) + c;
            store(call_.o, problem_.dtype, place, value);
        }
    }

    const AttentionProblem& problem_;
    const AttentionCall& call_;
    const Integers& integers_;
    std::int64_t map_, kv_map_, query_;
    double* products_;
    double* sums_;
};

std::int64_t doubles_per_thread(const AttentionProblem& problem) {
    return (problem.k_len + problem.head_dim + 7) / 8 * 8;
}

/// Bytes of all integers, in whole doubles.
std::int64_t integer_doubles(const AttentionProblem& problem) {
    const std::int64_t rows = problem.maps() * problem.q_len + 2 * problem.kv_maps() * problem.k_len;
    return (rows * problem.head_dim + 7) / 8;
}

std::size_t int8_attention_workspace(const AttentionProblem& problem) {
    return static_cast<std::size_t>(integer_doubles(problem) + doubles_per_thread(problem) * num_threads()) *
           sizeof(double);
}

void int8_attention(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const std::int64_t d = problem.head_dim;
    const std::int64_t q_rows = problem.maps() * problem.q_len, k_rows = problem.kv_maps() * problem.k_len;
    Integers integers;
    integers.q = reinterpret_cast<std::int8_t*>(call.workspace);
    integers.k = integers.q + q_rows * d;
    integers.v = integers.k + k_rows * d;
    parallel_for(q_rows,
                 [&](std::int64_t row, int) { quantize_query(problem, call, row, integers.q + row * d); });
    parallel_for(k_rows, [&](std::int64_t row, int) {
        quantize_key(problem, call, row, integers.k + row * d);
        quantize_value(problem, call, row, integers.v + row * d);
    });
    double* scratch = reinterpret_cast<double*>(call.workspace) + integer_doubles(problem);
    parallel_for(q_rows, [&](std::int64_t row, int worker) {
        Row(problem, call, integers, row, scratch + worker * doubles_per_thread(problem)).run();
    });
}

}  // namespace

constexpr AttentionKernel kInt8Attention = {.name = "reference.int8_attention",
                                            .formats = kInt8Formats,
                                            .why_not = takes_all_keys,
                                            .workspace_bytes = int8_attention_workspace,
                                            .run = int8_attention,
                                            .find_scales = int8_scales,
                                            .largest_weight = kWideWeight};

}  // namespace aerogel::reference
