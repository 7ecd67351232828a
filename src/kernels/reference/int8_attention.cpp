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

std::int64_t centroids_of(const AttentionProblem& problem) {
    return problem.centroids ? problem.k_blocks() : 0;
}

std::int64_t groups_of(std::int64_t keys) {
    return (keys + kGroup - 1) / kGroup;
}

/// The integers of all maps, [maps][tokens][head_dim], and those of the centroids with their scales.
struct Integers {
    std::int8_t* q;
    std::int8_t* k;
    std::int8_t* v;
    std::int8_t* k_mean;
    std::int8_t* v_mean;
    float* k_mean_scale;  ///< [kv_maps][centroids]
    float* v_mean_scale;  ///< [kv_maps][groups of them][head_dim]
};

std::int64_t key_groups(const AttentionProblem& problem) {
    return groups_of(problem.k_len);
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

/// The scale of values whose largest magnitude is found by raise().
struct Largest {
    float value = 0.0F;
    void raise(float x) {
        value = std::isfinite(x) && !std::isnan(value) ? std::max(value, std::fabs(x)) : NAN;
    }
    float scale() const { return value / 127.0F == 0.0F ? 1.0F : value / 127.0F; }
};

/// The centroids of one map: keys as tokens, values by channels of a group.
void quantize_centroids(const AttentionProblem& problem, const AttentionCall& call, std::int64_t map,
                        const Integers& to) {
    const std::int64_t blocks = centroids_of(problem), d = problem.head_dim;
    const auto mean_of = [&](const KeyArray& of, const float* mean, std::int64_t block, std::int64_t c) {
        return mean_of_block(problem, of, map, block, c) - at_or_zero(mean, map * d + c);
    };
    for (std::int64_t block = 0; block < blocks; ++block) {
        const auto x = [&](std::int64_t c) {
            return mean_of({call.k, call.k_strides}, call.int8.k_mean, block, c);
        };
        Largest largest;
        for (std::int64_t c = 0; c < d; ++c) largest.raise(x(c));
        const std::int64_t row = map * blocks + block;
        to.k_mean_scale[row] = largest.scale();
        for (std::int64_t c = 0; c < d; ++c) to.k_mean[row * d + c] = quantize(x(c), largest.scale(), 0.0F);
    }
    for (std::int64_t at = 0; at < groups_of(blocks) * d; ++at) {
        const std::int64_t first = at / d * kGroup, last = std::min(first + kGroup, blocks), c = at % d;
        const auto x = [&](std::int64_t block) {
            return mean_of({call.v, call.v_strides}, call.int8.v_mean, block, c);
        };
        Largest largest;
        for (std::int64_t block = first; block < last; ++block) largest.raise(x(block));
        to.v_mean_scale[map * groups_of(blocks) * d + at] = largest.scale();
        for (std::int64_t block = first; block < last; ++block)
            to.v_mean[(map * blocks + block) * d + c] = quantize(x(block), largest.scale(), 0.0F);
    }
}

/// Keys of one map, or its centroids: those of `count` products from `first` on.
struct Keys {
    std::int64_t first, count;
    const std::int8_t* k;
    const std::int8_t* v;
    const float* k_scale;
    const float* v_scale;
};

/// One query row of one map.
class Row {
  public:
    Row(const AttentionProblem& problem, const AttentionCall& call, const Integers& integers,
        std::int64_t row, double* scratch)
        : problem_(problem),
          call_(call),
          q_(integers.q + row * problem.head_dim),
          map_(row / problem.q_len),
          kv_map_(map_ / problem.group()),
          query_(row % problem.q_len),
          products_(scratch),
          sums_(scratch + problem.k_len + centroids_of(problem)) {
        const std::int64_t d = problem.head_dim, before = kv_map_ * problem.k_len;
        const std::int64_t blocks = centroids_of(problem), means = kv_map_ * blocks;
        keys_ = {0,
                 problem.k_len,
                 integers.k + before * d,
                 integers.v + before * d,
                 call.int8.k_scale + before,
                 call.int8.v_scale + kv_map_ * key_groups(problem) * d};
        centroids_ = {problem.k_len,
                      blocks,
                      integers.k_mean + means * d,
                      integers.v_mean + means * d,
                      integers.k_mean_scale + means,
                      integers.v_mean_scale + kv_map_ * groups_of(blocks) * d};
    }

    void run() {
        score();
        double largest = kUnkept;
        for (std::int64_t key = 0; key < problem_.k_len + centroids_.count; ++key)
            if (kept(key)) largest = std::max(largest, products_[key]);
        double weights = 0.0;
        std::fill_n(sums_, problem_.head_dim, 0.0);
        for (const Keys& keys : {keys_, centroids_})
            for (std::int64_t first = 0; first < keys.count; first += kGroup)
                add_group(keys, first, largest, weights);
        write(weights);
        if (!problem_.wants_lse) return;
        const double sum = std::log(weights / static_cast<double>(kWideWeight));
        lse_at(problem_, call_, map_, query_) = static_cast<float>(largest / kLog2E + sum);
    }

  private:
    bool kept(std::int64_t key) const { return products_[key] != kUnkept; }

    /// products_ = f * x, or kUnkept.
    void score() {
        const double factor = static_cast<double>(call_.int8.q_scale[map_ * problem_.q_len + query_]) *
                              static_cast<double>(call_.scale) * kLog2E;
        std::fill_n(products_, problem_.k_len + centroids_.count, kUnkept);
        visit_keys(problem_, call_.mask, map_, query_, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t key = first; key < last; ++key) products_[key] = factor * product(keys_, key);
        });
        visit_skipped(problem_, call_.mask, map_, query_, [&](std::int64_t block) {
            products_[centroids_.first + block] =
                factor * product(centroids_, block) +
                std::log2(static_cast<double>(problem_.keys_of_block(block)));
        });
    }

    double product(const Keys& keys, std::int64_t key) const {
        const auto offset = static_cast<std::int64_t>(at_or_zero(call_.int8.q_offset, map_));
        const std::int8_t* k = keys.k + key * problem_.head_dim;
        std::int64_t sum = 0;
        for (std::int64_t c = 0; c < problem_.head_dim; ++c) sum += (q_[c] - offset) * k[c];
        return static_cast<double>(sum) * static_cast<double>(keys.k_scale[key]);
    }

    void add_group(const Keys& keys, std::int64_t first, double largest, double& weights) {
        const std::int64_t count = std::min(kGroup, keys.count - first);
        const double* products = products_ + keys.first + first;
        double top = kUnkept;
        for (std::int64_t i = 0; i < count; ++i) {
            if (std::isnan(products[i])) weights = std::nan("");
            if (products[i] != kUnkept) top = std::max(top, products[i]);
        }
        if (top == kUnkept || std::isnan(weights)) return;
        const double factor = std::exp2(top - largest);
        double p[kGroup];
        for (std::int64_t i = 0; i < count; ++i) {
            const double weight = std::nearbyint(kWideWeight * std::exp2(products[i] - top));
            p[i] = products[i] != kUnkept ? weight : 0.0;
            weights += factor * p[i];
        }
        const float* scales = keys.v_scale + first / kGroup * problem_.head_dim;
        const std::int8_t* v = keys.v + first * problem_.head_dim;
        for (std::int64_t c = 0; c < problem_.head_dim; ++c) {
            double sum = 0.0;  // of integers below 2^53: exact
            for (std::int64_t i = 0; i < count; ++i) sum += p[i] * v[i * problem_.head_dim + c];
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
    const std::int8_t* q_;
    std::int64_t map_, kv_map_, query_;
    Keys keys_, centroids_;
    double* products_;
    double* sums_;
};

std::int64_t doubles_per_thread(const AttentionProblem& problem) {
    return (problem.k_len + centroids_of(problem) + problem.head_dim + 7) / 8 * 8;
}

/// Floats of the scales of centroids.
std::int64_t centroid_floats(const AttentionProblem& problem) {
    const std::int64_t blocks = centroids_of(problem);
    return problem.kv_maps() * (blocks + groups_of(blocks) * problem.head_dim);
}

/// All integers with the scales of centroids, in whole doubles.
std::int64_t integer_doubles(const AttentionProblem& problem) {
    const std::int64_t keys = problem.k_len + centroids_of(problem);
    const std::int64_t rows = problem.maps() * problem.q_len + 2 * problem.kv_maps() * keys;
    return (rows * problem.head_dim + 4 * centroid_floats(problem) + 7) / 8;
}

std::size_t int8_attention_workspace(const AttentionProblem& problem) {
    return static_cast<std::size_t>(integer_doubles(problem) + doubles_per_thread(problem) * num_threads()) *
           sizeof(double);
}

void int8_attention(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const std::int64_t d = problem.head_dim;
    const std::int64_t q_rows = problem.maps() * problem.q_len, k_rows = problem.kv_maps() * problem.k_len;
    const std::int64_t means = problem.kv_maps() * centroids_of(problem);
    Integers integers;
    integers.k_mean_scale = reinterpret_cast<float*>(call.workspace);
    integers.v_mean_scale = integers.k_mean_scale + means;
    integers.q = reinterpret_cast<std::int8_t*>(integers.k_mean_scale + centroid_floats(problem));
    integers.k = integers.q + q_rows * d;
    integers.v = integers.k + k_rows * d;
    integers.k_mean = integers.v + k_rows * d;
    integers.v_mean = integers.k_mean + means * d;
    parallel_for(problem.kv_maps(),
                 [&](std::int64_t map, int) { quantize_centroids(problem, call, map, integers); });
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
