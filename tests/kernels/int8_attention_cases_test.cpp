// The oracle of int8 attention: the contract's formulas in plain loops, with a bound from the rounding of
// float32: how far each exponent can be off, hence which weights may round to a neighbour.
#include "kernels/int8_attention_cases.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace aerogel::testing {
namespace {

constexpr double kUnit = 0x1p-24;
/// How far a weight may be off before it is rounded: narrow ones are powers in fixed point.
double power_error(double largest_weight) {
    return (largest_weight == kNarrowWeight ? 0x1p-11 : 0x1p-18) + 6.0 * kUnit;
}
constexpr double kNone = -HUGE_VAL;
constexpr std::int64_t kGroup = 64;

std::size_t at(std::int64_t index) {
    return static_cast<std::size_t>(index);
}

/// One query row.
class Row {
  public:
    Row(const QuantizedData& all, std::int64_t map, std::int64_t query)
        : all_(all),
          p_(all.problem),
          map_(map),
          kv_map_(map / all.problem.group()),
          query_(query),
          exponents_(at(p_.k_len), kNone),
          weights_(at(p_.k_len)),
          slack_(at(p_.k_len)) {}

    void solve(double* exact, double* bound) {
        visit_kept();
        for (const double e : exponents_) largest_ = std::max(largest_, e);
        if (largest_ == kNone) return;
        for (std::int64_t first = 0; first < p_.k_len; first += kGroup) weigh(first);
        for (std::int64_t d = 0; d < p_.head_dim; ++d) solve_channel(d, exact[d], bound[d]);
    }

    /// After solve(). A row without keys: -infinity.
    void solve_lse(double& lse, double& bound) const {
        double total = 0.0, error = 0.0;
        const auto n = static_cast<double>(groups_.size() + 12);
        for (const Group& group : groups_) {
            for (std::int64_t key = group.first; key < group.last; ++key) {
                const double weight = group.factor * weights_[at(key)];
                total += weight;
                error += (group.error + 3.0 * n * kUnit) * weight + group.factor * slack_[at(key)];
            }
        }
        lse = largest_ * std::log(2.0) + std::log(total / all_.largest_weight);
        bound = groups_.empty() ? 0.0
                                : -std::log1p(-error / total) +
                                      kUnit * (8.0 * std::fabs(largest_) + 4.0 * std::fabs(lse) + 4.0);
    }

  private:
    struct Group {
        std::int64_t first, last;
        double factor, error;
    };

    void visit_kept() {
        const BlockMask& mask = all_.data.test_case.mask;
        if (!p_.masked) {
            for (std::int64_t key = 0; key < p_.k_len; ++key) exponents_[at(key)] = exponent(key);
            return;
        }
        const std::size_t row = at(map_ * mask.q_blocks() + query_ / p_.block_q);
        for (std::int64_t i = mask.row_start[row]; i < mask.row_start[row + 1]; ++i) {
            const std::int64_t first = mask.columns[at(i)] * p_.block_k;
            for (std::int64_t key = first; key < std::min(first + p_.block_k, p_.k_len); ++key)
                exponents_[at(key)] = exponent(key);
        }
    }

    double exponent(std::int64_t key) const {
        const double* q = all_.q_integers.data() + (map_ * p_.q_len + query_) * p_.head_dim;
        const double* k = all_.k_integers.data() + (kv_map_ * p_.k_len + key) * p_.head_dim;
        double sum = 0.0;
        for (std::int64_t d = 0; d < p_.head_dim; ++d)
            sum += (q[d] - static_cast<double>(all_.q_offset[at(map_)])) * k[d];
        return sum * static_cast<double>(all_.k_scale[at(kv_map_ * p_.k_len + key)]) *
               static_cast<double>(all_.q_scale[at(map_ * p_.q_len + query_)]) *
               static_cast<double>(all_.scale) / std::log(2.0);
    }

    void weigh(std::int64_t first) {
        const std::int64_t last = std::min(first + kGroup, p_.k_len);
        const double top = *std::max_element(exponents_.begin() + first, exponents_.begin() + last);
        if (top == kNone) return;
        // An exponent is off by six roundings (log2 e, two products with it, the score's two, the last
        // product), in the key's and in the largest's, then by that of their difference.
        const double unit = std::log(2.0) * kUnit;
        groups_.push_back({first, last, std::exp2(top - largest_),
                           unit * (6.0 * (std::fabs(top) + std::fabs(largest_)) + 2.0 * (largest_ - top))});
        for (std::int64_t key = first; key < last; ++key) {
            const double e = exponents_[at(key)];
            if (e == kNone) continue;
            const double off =
                unit * (6.0 * (std::fabs(e) + std::fabs(top)) + top - e) + power_error(all_.largest_weight);
            const double weight = all_.largest_weight * std::exp2(e - top);
            const double rounded = std::nearbyint(weight);
            const double low = std::nearbyint(weight * std::exp(-off));
            const double high = std::min(all_.largest_weight, std::nearbyint(weight * std::exp(off)));
            weights_[at(key)] = rounded;
            slack_[at(key)] = std::max(high - rounded, rounded - low);
        }
    }

    void solve_channel(std::int64_t d, double& exact, double& bound) const {
        const auto n = static_cast<double>(groups_.size() + 12);
        const std::int64_t all_groups = (p_.k_len + kGroup - 1) / kGroup;
        double sum = 0.0, total = 0.0, sum_error = 0.0, total_error = 0.0, largest = 0.0;
        for (const Group& group : groups_) {
            const std::int64_t scale = (kv_map_ * all_groups + group.first / kGroup) * p_.head_dim + d;
            const double relative = group.error + 3.0 * n * kUnit;  // sums over groups; rescalings; the rest
            for (std::int64_t key = group.first; key < group.last; ++key) {
                if (exponents_[at(key)] == kNone) continue;
                const double v = static_cast<double>(all_.v_scale[at(scale)]) *
                                 all_.v_integers[at((kv_map_ * p_.k_len + key) * p_.head_dim + d)];
                const double weight = group.factor * weights_[at(key)];
                const double error = relative * weight + group.factor * slack_[at(key)];
                sum += weight * v;
                total += weight;
                sum_error += error * std::fabs(v);
                total_error += error;
                largest = std::max(largest, std::fabs(v));
            }
        }
        const double ratio = sum / total;
        const double shift = static_cast<double>(all_.v_shift[at(kv_map_ * p_.head_dim + d)]);
        exact = ratio + shift;
        // Weights sum to 128 or more; factors below the normal range are lost.
        const double lost = n * 64.0 * (0x1p-126 * largest + 0x1p-149);
        bound = (sum_error + std::fabs(ratio) * total_error) / (total - total_error) + lost +
                4.0 * kUnit * (std::fabs(ratio) + std::fabs(shift));
        bound = bound * (1.0 + 0x1p-7) + (p_.dtype == DType::f16    ? std::fabs(exact) * 0x1p-11 + 0x1p-25
                                          : p_.dtype == DType::bf16 ? std::fabs(exact) * 0x1p-8 + 0x1p-134
                                                                    : 0x1p-149);
    }

    const QuantizedData& all_;
    const AttentionProblem& p_;
    std::int64_t map_, kv_map_, query_;
    std::vector<double> exponents_, weights_, slack_;
    std::vector<Group> groups_;
    double largest_ = kNone;
};

/// Fills arrays with numbers that are exact in all of the formats.
void fill_bytes(AttentionData& data, PaddedArray& array) {
    const AttentionProblem& p = data.test_case.problem;
    const bool of_q = &array == &data.q;
    const std::int64_t tokens = of_q ? p.q_len : p.k_len;
    auto state = static_cast<std::uint32_t>(tokens);
    for (std::int64_t i = 0; i < (of_q ? p.maps() : p.kv_maps()) * tokens * p.head_dim; ++i) {
        state = state * 1664525 + 1013904223;
        const std::uint32_t bits = state >> 24;
        const double byte = bits % 3 == 0   ? -128.0
                            : bits % 3 == 1 ? 127.0
                                            : static_cast<double>(bits) - 128.0;
        const std::int64_t row = i / p.head_dim;
        const std::int64_t start = of_q ? data.index(array.strides, row / tokens, row % tokens)
                                        : data.kv_index(array.strides, row / tokens, row % tokens);
        array.set(start + i % p.head_dim, byte);
    }
}

/// One of q, k, v with what it is quantized with.
struct Operand {
    const AttentionData& data;
    const PaddedArray& array;
    std::int64_t tokens;
    const std::vector<float>* mean;  ///< [maps][head_dim] or null

    bool of_q() const { return &array == &data.q; }
    std::int64_t maps() const {
        return of_q() ? data.test_case.problem.maps() : data.test_case.problem.kv_maps();
    }
    float centred(std::int64_t map, std::int64_t token, std::int64_t d) const {
        const std::int64_t start =
            of_q() ? data.index(array.strides, map, token) : data.kv_index(array.strides, map, token);
        const float x = static_cast<float>(array.get(start + d));
        return mean == nullptr ? x : x - (*mean)[at(map * data.test_case.problem.head_dim + d)];
    }

    /// Scale that maps the largest of a window to 127 / narrow.
    float scale(std::int64_t map, std::int64_t first, std::int64_t last, double narrow) const {
        float largest = 0.0F;
        for (std::int64_t t = first; t < std::min(last, tokens); ++t)
            for (std::int64_t d = 0; d < data.test_case.problem.head_dim; ++d)
                largest = std::max(largest, std::fabs(centred(map, t, d)));
        const float result = static_cast<float>(narrow) * largest / 127.0F;
        return result == 0.0F ? 1.0F : result;
    }

    std::vector<float> token_scales(std::int64_t block, double narrow) const {
        std::vector<float> scales;
        for (std::int64_t map = 0; map < maps(); ++map)
            for (std::int64_t first = 0; first < tokens; first += block)
                scales.insert(scales.end(), at(std::min(block, tokens - first)),
                              scale(map, first, first + block, narrow));
        return scales;
    }

    /// clamp(rint((x - mean) / scale + offset)), the scale looked up by index(map, token, channel).
    template <typename Index>
    std::vector<double> integers(const std::vector<float>& scales, const std::vector<float>& offsets,
                                 const Index& index) const {
        std::vector<double> result;
        const AttentionProblem& p = data.test_case.problem;
        for (std::int64_t map = 0; map < maps(); ++map)
            for (std::int64_t t = 0; t < tokens; ++t)
                for (std::int64_t d = 0; d < p.head_dim; ++d) {
                    const float q = centred(map, t, d) / scales[at(index(map, t, d))] + offsets[at(map)];
                    result.push_back(
                        std::nearbyint(std::min(127.0, std::max(-128.0, static_cast<double>(q)))));
                }
        return result;
    }
};

std::vector<float> value_scales(const Operand& v, Scales kind) {
    const AttentionProblem& p = v.data.test_case.problem;
    const std::int64_t groups = (p.k_len + kGroup - 1) / kGroup;
    std::vector<float> scales;
    for (std::int64_t map = 0; map < v.maps(); ++map) {
        const float all = v.scale(map, 0, p.k_len, 0.6);
        for (std::int64_t i = 0; i < groups * p.head_dim; ++i) {
            float largest = 0.0F;
            for (std::int64_t t = 0; t < kGroup && i / p.head_dim * kGroup + t < p.k_len; ++t)
                largest =
                    std::max(largest, std::fabs(v.centred(map, i / p.head_dim * kGroup + t, i % p.head_dim)));
            const float fine = largest / 127.0F;
            scales.push_back(kind == Scales::fixed ? all : fine == 0.0F ? 1.0F : fine);
        }
    }
    return scales;
}

}  // namespace

QuantizedData::QuantizedData(AttentionData& arrays, Scales kind)
    : data(arrays), problem(arrays.test_case.problem) {
    problem.format = AttentionFormat::int8;
    const AttentionProblem& p = problem;
    const std::int64_t kv_maps = p.kv_maps(), groups = (p.k_len + kGroup - 1) / kGroup;
    scale = 1.0F / std::sqrt(static_cast<float>(p.head_dim));
    k_mean.assign(at(kv_maps * p.head_dim), 0.0F);
    v_mean = v_shift = k_mean;
    q_offset.assign(at(p.maps()), 0.0F);
    k_offset.assign(at(kv_maps), 0.0F);
    v_offset = k_offset;
    for (std::int64_t map = 0; map < p.maps() && kind == Scales::fixed; ++map)
        q_offset[at(map)] = static_cast<float>(map % 5) - 3.0F;
    for (std::int64_t map = 0; map < kv_maps && kind == Scales::fixed; ++map) {
        k_offset[at(map)] = 7.0F - static_cast<float>(map % 5);
        v_offset[at(map)] = static_cast<float>(map % 3) - 1.0F;
    }
    for (std::int64_t i = 0; i < kv_maps * p.head_dim && kind == Scales::per_token; ++i) {
        const std::int64_t map = i / p.head_dim, d = i % p.head_dim;  // any vectors would do
        k_mean[at(i)] = 0.5F * static_cast<float>(data.k.get(data.kv_index(data.k.strides, map, 0) + d));
        v_mean[at(i)] = v_shift[at(i)] =
            0.5F * static_cast<float>(data.v.get(data.kv_index(data.v.strides, map, 0) + d));
    }
    const Operand q = {data, data.q, p.q_len, nullptr}, k = {data, data.k, p.k_len, &k_mean};
    const double narrow = kind == Scales::fixed ? 0.6 : 1.0;
    const bool blocks = kind == Scales::blocks, fixed = kind == Scales::fixed;
    q_scale = q.token_scales(blocks ? 128 : fixed ? p.q_len : 1, narrow);
    k_scale = k.token_scales(blocks ? 256 : fixed ? p.k_len : 1, narrow);
    v_scale = value_scales({data, data.v, p.k_len, &v_mean}, kind);
    for (std::int64_t i = 0; i < kv_maps * p.head_dim && fixed; ++i)
        v_shift[at(i)] = -v_offset[at(i / p.head_dim)] * v_scale[at(i / p.head_dim * groups * p.head_dim)];
    if (kind == Scales::bytes) {
        fill_bytes(data, data.q);
        fill_bytes(data, data.k);
        fill_bytes(data, data.v);
        for (auto* scales : {&q_scale, &k_scale, &v_scale}) std::fill(scales->begin(), scales->end(), 1.0F);
        scale *= 0x1p-12F;  // scores reach 2^14 head_dim
    }
    solve();
}

void QuantizedData::solve() {
    const AttentionProblem& p = data.test_case.problem;
    const std::int64_t groups = (p.k_len + kGroup - 1) / kGroup;
    const auto q_index = [&](std::int64_t map, std::int64_t t, std::int64_t) { return map * p.q_len + t; };
    const auto k_index = [&](std::int64_t map, std::int64_t t, std::int64_t) { return map * p.k_len + t; };
    const auto v_index = [&](std::int64_t map, std::int64_t t, std::int64_t d) {
        return (map * groups + t / kGroup) * p.head_dim + d;
    };
    q_integers = Operand{data, data.q, p.q_len, nullptr}.integers(q_scale, q_offset, q_index);
    k_integers = Operand{data, data.k, p.k_len, &k_mean}.integers(k_scale, k_offset, k_index);
    v_integers = Operand{data, data.v, p.k_len, &v_mean}.integers(v_scale, v_offset, v_index);
    const std::int64_t rows = p.batch * p.heads * p.q_len;
    exact.assign(at(rows * p.head_dim), 0.0);
    bound = exact;
    lse.assign(at(rows), 0.0);
    lse_bound = lse;
    for (std::int64_t i = 0; i < rows; ++i) {
        Row row(*this, i / p.q_len, i % p.q_len);
        row.solve(exact.data() + i * p.head_dim, bound.data() + i * p.head_dim);
        row.solve_lse(lse[at(i)], lse_bound[at(i)]);
    }
}

void QuantizedData::solve(const AttentionKernel& kernel) {
    if (largest_weight == static_cast<double>(kernel.largest_weight)) return;
    largest_weight = static_cast<double>(kernel.largest_weight);
    solve();
}

AttentionCall QuantizedData::call() {
    AttentionCall call = call_of(data);
    call.scale = scale;
    call.int8 = {.q_scale = q_scale.data(),
                 .k_scale = k_scale.data(),
                 .v_scale = v_scale.data(),
                 .q_offset = q_offset.data(),
                 .k_offset = k_offset.data(),
                 .v_offset = v_offset.data(),
                 .k_mean = k_mean.data(),
                 .v_mean = v_mean.data(),
                 .v_shift = v_shift.data(),
                 .on_the_way = on_the_way};
    return call;
}

PaddedArray run_attention(const AttentionKernel& kernel, QuantizedData& data) {
    return run_attention(kernel, data.data, data.problem, data.call());
}

std::string compare(const QuantizedData& data, const PaddedArray& o) {
    AttentionData expected = data.data;
    expected.exact = data.exact;
    expected.bound = data.bound;
    return compare(expected, o);
}

std::string compare_lse(const QuantizedData& data, const std::vector<float>& lse) {
    AttentionData expected = data.data;
    expected.lse = data.lse;
    expected.lse_bound = data.lse_bound;
    return compare_lse(expected, lse);
}

TEST(QuantizedAttentionOracle, TwoKeysByHand) {
    // Exponents differ by log2(1.9): weights 134 and 255 of the values 10 and 20.
    AttentionCase test_case = parse_attention_case("q_len=1 k_len=2 head_dim=1");
    AttentionData arrays(test_case);
    arrays.q.set(0, 1.0);
    arrays.k.set(0, 0.0);
    arrays.k.set(arrays.index(arrays.k.strides, 0, 1), 1.0);
    arrays.v.set(0, 10.0);
    arrays.v.set(arrays.index(arrays.v.strides, 0, 1), 20.0);
    QuantizedData data(arrays, Scales::blocks);
    data.q_scale = {1.0F};
    data.k_scale = {1.0F, 1.0F};
    data.v_scale = {1.0F};
    data.scale = static_cast<float>(std::log(1.9));
    data.solve();
    EXPECT_NEAR(data.exact[0], (134.0 * 10.0 + 255.0 * 20.0) / 389.0, 1e-12);  // 255 / 1.9 = 134.2
    EXPECT_LT(data.bound[0], 1e-4);
    EXPECT_GT(data.bound[0], 1e-7);
}

TEST(QuantizedAttentionOracle, BoundsStayMeaningful) {
    int next = 0;
    for (const AttentionCase& test_case : attention_cases()) {
        if (test_case.problem.causal || test_case.problem.biased) continue;  // float attention only
        const auto kind = static_cast<Scales>(next++ % 4);
        AttentionData arrays(test_case);
        const QuantizedData data(arrays, kind);
        double total = 0.0, size = 0.0;
        for (const double bound : data.bound) total += bound;
        for (const double exact : data.exact) size += std::fabs(exact);
        const double allowed = test_case.values == Values::large ? 0.05 : 5e-3;
        const double spacing =
            test_case.problem.dtype == DType::bf16 ? 0x1p-133 : 0x1p-138;  // what denormals lose
        EXPECT_LE(total, allowed * size + spacing * static_cast<double>(data.bound.size()))
            << test_case.line << " scales " << static_cast<int>(kind);
    }
}

}  // namespace aerogel::testing
