// The problems, the oracle in double and its error bounds; and tests of the oracle itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>

#include "aerogel/number_types.h"
#include "kernels/attention_cases.h"
#include "kernels/reference/kernels.h"

namespace aerogel::testing {
namespace {

constexpr auto kPoison = std::byte{0xFF};  // NaN in f32 and in bf16

std::size_t at(std::int64_t index) {
    return static_cast<std::size_t>(index);
}

PaddedArray make_array(const AttentionCase& test_case, std::int64_t heads, std::int64_t tokens) {
    const AttentionProblem& p = test_case.problem;
    PaddedArray array;
    array.dtype = p.dtype;
    const std::int64_t token = (test_case.bsnd ? heads : 1) * p.head_dim + test_case.margin;
    array.strides = {test_case.bsnd ? tokens * token : heads * tokens * token,
                     test_case.bsnd ? p.head_dim : tokens * token, token};
    array.bytes.assign(at(array.strides.batch * p.batch + test_case.margin) * size_of(p.dtype), kPoison);
    return array;
}

/// First element of a row of an array with so many heads.
std::int64_t row_of(const AttentionStrides& strides, std::int64_t heads, std::int64_t map,
                    std::int64_t token) {
    return map / heads * strides.batch + map % heads * strides.head + token * strides.token;
}

/// Fills a side: q, or k and v.
void fill(AttentionData& data, PaddedArray& array, std::int64_t heads, double factor, unsigned seed) {
    const AttentionProblem& p = data.test_case.problem;
    const std::int64_t tokens = &array == &data.q ? p.q_len : p.k_len;
    std::mt19937 random(seed);
    std::normal_distribution<double> normal(0.0, factor);
    for (std::int64_t map = 0; map < p.batch * heads; ++map) {
        for (std::int64_t token = 0; token < tokens; ++token) {
            const std::int64_t start = row_of(array.strides, heads, map, token);
            for (std::int64_t d = 0; d < p.head_dim; ++d) array.set(start + d, normal(random));
        }
    }
}

BlockMask random_mask(const AttentionProblem& p, const std::string& kind, double density, unsigned seed) {
    BlockMask geometry;
    geometry.batch = p.batch;
    geometry.heads = p.heads;
    geometry.q_len = p.q_len;
    geometry.k_len = p.k_len;
    geometry.block_q = p.block_q;
    geometry.block_k = p.block_k;
    std::mt19937 random(seed);
    std::bernoulli_distribution keep(density);
    BlockMask mask = geometry;
    mask.row_start = {0};
    for (std::int64_t row = 0; row < p.batch * p.heads * mask.q_blocks(); ++row) {
        for (std::int32_t column = 0; column < mask.k_blocks(); ++column) {
            const bool random_keep = keep(random);
            if (kind == "full" || (random_keep && !(kind == "empty_rows" && row % 3 == 0)))
                mask.columns.push_back(column);
        }
        mask.row_start.push_back(static_cast<std::int64_t>(mask.columns.size()));
    }
    return mask;
}

void set_sizes(AttentionCase& result, const std::string& key, const std::string& value) {
    AttentionProblem& p = result.problem;
    if (key == "batch") p.batch = std::stoll(value);
    if (key == "heads") p.heads = p.kv_heads = std::stoll(value);
    if (key == "kv_heads") p.kv_heads = std::stoll(value);
    if (key == "q_len") p.q_len = std::stoll(value);
    if (key == "k_len") p.k_len = std::stoll(value);
    if (key == "head_dim") p.head_dim = std::stoll(value);
    if (key == "dtype") p.dtype = value == "bf16" ? DType::bf16 : value == "f16" ? DType::f16 : DType::f32;
    if (key == "margin") result.margin = std::stoll(value);
    if (key == "layout") result.bsnd = value == "bsnd";
    if (key == "values") {
        result.values = value == "large"       ? Values::large
                        : value == "identical" ? Values::identical
                        : value == "denormal"  ? Values::denormal
                                               : Values::normal;
    }
    if (key == "causal") p.causal = value == "yes";
    if (key == "bias") p.biased = value == "yes";
    if (key == "mask") {
        p.masked = true;
        p.block_q = std::stoll(value);
        p.block_k = std::stoll(value.substr(value.find('x') + 1));
    }
}

/// One query row: exact output and bounds.
class Row {
  public:
    Row(const AttentionData& data, std::int64_t map, std::int64_t query)
        : data_(data), map_(map), query_(query) {
        const AttentionProblem& p = data.test_case.problem;
        const BlockMask& mask = data.test_case.mask;
        const std::int64_t start = data.index(data.q.strides, map, query);
        for (std::int64_t d = 0; d < p.head_dim; ++d) q_.push_back(data.q.get(start + d));
        const std::int64_t seen = p.causal ? std::min(query + p.k_len - p.q_len + 1, p.k_len) : p.k_len;
        if (!p.masked) {
            add_keys(0, seen);
            return;
        }
        const std::size_t row = at(map * mask.q_blocks() + query / p.block_q);
        for (std::int64_t i = mask.row_start[row]; i < mask.row_start[row + 1]; ++i) {
            const std::int64_t first = mask.columns[at(i)] * p.block_k;
            add_keys(first, std::min(first + p.block_k, seen));
        }
    }

    /// Into the elements of the row, of which `first` is the first.
    void solve(AttentionData& data, std::int64_t first) {
        if (keys_.empty()) return;
        weigh();
        const std::size_t row = at(first / data.test_case.problem.head_dim);
        data.lse[row] = lse_;
        data.lse_bound[row] = lse_bound_;
        add_values();
        for (std::size_t d = 0; d < channels_.size(); ++d) {
            const std::size_t i = at(first) + d;
            data.exact[i] = channels_[d].exact;
            bound_element(channels_[d], data.bound[i], data.weight_rounding[i]);
        }
    }

  private:
    static constexpr double kUnit = 0x1p-24;

    /// Sums of a channel of v over the keys: their weighted mean, that of magnitudes, of distances to the
    /// mean.
    struct Channel {
        double exact = 0.0, magnitude = 0.0, perturbed = 0.0, largest = 0.0;
    };

    void add_keys(std::int64_t first, std::int64_t last) {
        if (first >= last) return;
        const AttentionProblem& p = data_.test_case.problem;
        std::vector<double> dots(at(last - first)), magnitudes = dots;
        for (std::int64_t d = 0; d < p.head_dim; ++d) {
            const double* const k = &data_.keys[at((map_ / p.group() * p.head_dim + d) * p.k_len + first)];
            for (std::size_t j = 0; j < dots.size(); ++j) {
                const double term = q_[at(d)] * k[j];
                dots[j] += term;
                magnitudes[j] += std::fabs(term);
            }
        }
        for (std::size_t j = 0; j < dots.size(); ++j)
            add_score(first + static_cast<std::int64_t>(j), dots[j], magnitudes[j]);
    }

    void add_score(std::int64_t key, double dot, double magnitude) {
        const AttentionProblem& p = data_.test_case.problem;
        const double scale = 1.0 / std::sqrt(static_cast<double>(p.head_dim));
        keys_.push_back(key);
        scores_.push_back(dot * scale);
        // A float sum of head_dim rounded products; products below the normal range lose up to 2^-150 each.
        const auto n = static_cast<double>(p.head_dim);
        const double split =
            data_.product_error == 0.0 ? 0.0 : data_.product_error * magnitude + 0x1p-120 * n;
        score_errors_.push_back(scale * ((n + 1.0) * (kUnit * magnitude + 0x1p-149) + split));
        if (p.biased) add_bias(key);
    }

    /// Kernels may bring the bias to the scale of q k^T, which rounds twice, and the sum is rounded.
    void add_bias(std::int64_t key) {
        const AttentionProblem& p = data_.test_case.problem;
        const std::int64_t distance = key - query_ + p.q_len - 1;
        const double bias = data_.bias[at(map_ % p.heads * p.distances() + distance)];
        scores_.back() += bias;
        score_errors_.back() += kUnit * (3.0 * std::fabs(bias) + std::fabs(scores_.back()));
    }

    /// Weights p_j and the relative error e_j that a float kernel may make in each: the score's error, the
    /// rounding of the scale and of the exponent (3 units of the distance to the largest score), exp itself
    /// (3 ulp = 6 units) and one rescaling per portion of keys (5 units, at most one per 16 keys).
    void weigh() {
        const double largest = *std::max_element(scores_.begin(), scores_.end());
        double total = 0.0;
        for (const double score : scores_) total += weights_.emplace_back(std::exp(score - largest));
        lse_ = largest + std::log(total);
        const double rescalings = 5.0 * (1.0 + static_cast<double>(keys_.size()) / 16.0);
        for (std::size_t j = 0; j < keys_.size(); ++j) {
            weights_[j] /= total;
            const double exponent =
                score_errors_[j] + kUnit * (4.0 * (largest - scores_[j]) + 6.0 + rescalings);
            errors_.push_back(weights_[j] == 0.0 ? 0.0 : std::expm1(exponent));
            total_error_ += weights_[j] * errors_[j];
        }
        // The largest score twice: what weights are relative to, then its product with log 2; sum and
        // logarithm.
        lse_bound_ =
            *std::max_element(score_errors_.begin(), score_errors_.end()) + std::log1p(total_error_) +
            kUnit * (6.0 * (std::fabs(largest) + std::fabs(lse_)) + static_cast<double>(keys_.size()) + 8.0);
    }

    /// Key by key, all channels of one at a time: that is how they lie.
    void add_values() {
        const AttentionProblem& p = data_.test_case.problem;
        channels_.resize(at(p.head_dim));
        const auto row_of_key = [&](std::size_t j) {
            return &data_.values[at((map_ / p.group() * p.k_len + keys_[j]) * p.head_dim)];
        };
        for (std::size_t j = 0; j < keys_.size(); ++j) {
            const double* v = row_of_key(j);
            for (Channel& c : channels_) {
                const double size = std::fabs(*v);
                c.exact += weights_[j] * *v++;
                c.magnitude += weights_[j] * size;
                c.largest = std::max(c.largest, size);
            }
        }
        for (std::size_t j = 0; j < keys_.size(); ++j) {
            const double* v = row_of_key(j);
            const double error = weights_[j] * errors_[j];
            for (Channel& c : channels_) c.perturbed += error * std::fabs(*v++ - c.exact);
        }
    }

    void bound_element(const Channel& channel, double& bound, double& weight_rounding) const {
        const auto& [exact, magnitude, perturbed, largest] = channel;
        const AttentionProblem& p = data_.test_case.problem;
        // Two float sums over the keys, a division; weights and products lost below the normal range.
        const auto n = static_cast<double>(keys_.size() + 4);
        const double rounding =
            n * kUnit * (magnitude + std::fabs(exact)) + n * (0x1p-126 * largest + 0x1p-149);
        const double split = data_.product_error == 0.0 ? 0.0 : data_.product_error * magnitude + 0x1p-126;
        const double store = p.dtype == DType::f16    ? std::fabs(exact) * 0x1p-11 + 0x1p-25
                             : p.dtype == DType::bf16 ? std::fabs(exact) * 0x1p-8 + 0x1p-134
                                                      : std::fabs(exact) * 0x1p-24 + 0x1p-150;
        bound =
            (perturbed + rounding + split) / std::max(1.0 - total_error_, 0x1p-20) * (1.0 + 0x1p-7) + store;
        weight_rounding = data_.weight_unit * magnitude * (1.0 + 0x1p-7) + n * 0x1p-126 * largest + 0x1p-126;
    }

    const AttentionData& data_;
    std::int64_t map_, query_;
    std::vector<double> q_, scores_, score_errors_, weights_, errors_;
    std::vector<std::int64_t> keys_;
    std::vector<Channel> channels_;
    double total_error_ = 0.0, lse_ = 0.0, lse_bound_ = 0.0;
};

}  // namespace

double PaddedArray::get(std::int64_t index) const {
    if (dtype == DType::bf16) {
        BFloat16 value;
        std::memcpy(&value, bytes.data() + at(index) * sizeof(value), sizeof(value));
        return to_float(value);
    }
    if (dtype == DType::f16) {
        Float16 value;
        std::memcpy(&value, bytes.data() + at(index) * sizeof(value), sizeof(value));
        return to_float(value);
    }
    float value = 0.0F;
    std::memcpy(&value, bytes.data() + at(index) * sizeof(value), sizeof(value));
    return value;
}

void PaddedArray::set(std::int64_t index, double value) {
    if (dtype == DType::bf16) {
        const BFloat16 rounded = to_bfloat16(static_cast<float>(value));
        std::memcpy(bytes.data() + at(index) * sizeof(rounded), &rounded, sizeof(rounded));
    } else if (dtype == DType::f16) {
        const Float16 rounded = to_float16(static_cast<float>(value));
        std::memcpy(bytes.data() + at(index) * sizeof(rounded), &rounded, sizeof(rounded));
    } else {
        const auto rounded = static_cast<float>(value);
        std::memcpy(bytes.data() + at(index) * sizeof(rounded), &rounded, sizeof(rounded));
    }
}

AttentionCase parse_attention_case(const std::string& line) {
    AttentionCase result;
    result.line = line;
    std::string kind = "random";
    double density = 1.0;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
        const std::size_t equals = word.find('=');
        const std::string key = word.substr(0, equals), value = word.substr(equals + 1);
        if (key == "density") density = std::stod(value);
        if (key == "fill") kind = value;
        set_sizes(result, key, value);
    }
    if (result.problem.masked) result.mask = random_mask(result.problem, kind, density, 5);
    return result;
}

std::vector<AttentionCase> attention_cases() {
    std::ifstream file(AEROGEL_SOURCE_DIR "/tests/problems/attention.txt");
    std::vector<AttentionCase> cases;
    for (std::string line; std::getline(file, line);) {
        const bool for_tests = !line.empty() && line[0] != '#' && line.find(" speed=") == line.npos;
        if (!for_tests) continue;
        const AttentionCase test_case = parse_attention_case(line);
        if (!tests_the_cpu() || !is_too_large(test_case.problem)) cases.push_back(test_case);
    }
    return cases;
}

AttentionData::AttentionData(const AttentionCase& which)
    : test_case(which),
      q(make_array(which, which.problem.heads, which.problem.q_len)),
      k(make_array(which, which.problem.kv_heads, which.problem.k_len)),
      v(make_array(which, which.problem.kv_heads, which.problem.k_len)) {
    const AttentionProblem& p = which.problem;
    const bool tiny = which.values == Values::denormal;
    // Scores of independent normal numbers have the deviation factor^2: 2500 puts the largest near 10^4.
    const double factor = which.values == Values::large ? 50.0 : 1.0;
    fill(*this, q, p.heads, factor, 1);
    fill(*this, k, p.kv_heads, tiny ? 0x1p-130 : factor, 2);
    fill(*this, v, p.kv_heads, tiny ? 0x1p-130 : 1.0, 3);
    if (which.values == Values::identical) {
        for (std::int64_t i = 0; i < p.kv_maps() * p.k_len; ++i) {
            const std::int64_t map = i / p.k_len;
            for (std::int64_t d = 0; d < p.head_dim; ++d)
                k.set(kv_index(k.strides, map, i % p.k_len) + d, k.get(kv_index(k.strides, map, 0) + d));
        }
    }
    if (p.biased) {
        std::mt19937 random(4);
        std::normal_distribution<float> normal(0.0F, 3.0F);
        bias.resize(at(p.heads * p.distances()));
        for (float& value : bias) value = normal(random);
    }
    solve();
}

std::int64_t AttentionData::index(const AttentionStrides& strides, std::int64_t map,
                                  std::int64_t token) const {
    return row_of(strides, test_case.problem.heads, map, token);
}

std::int64_t AttentionData::kv_index(const AttentionStrides& strides, std::int64_t kv_map,
                                     std::int64_t token) const {
    return row_of(strides, test_case.problem.kv_heads, kv_map, token);
}

KernelReferences<AttentionKernel> kernels_for(const AttentionProblem& problem) {
    KernelReferences<AttentionKernel> kernels;
    for (const AttentionKernel& kernel : usable(machine_under_test().attention, problem))
        if (kernel.is_for(problem)) kernels.push_back(kernel);
    return kernels;
}

LaterNaN::LaterNaN(const std::string& dtype)
    : test_case(parse_attention_case("q_len=300 k_len=300 head_dim=16 causal=yes dtype=" + dtype)),
      data(test_case) {
    data.v.set(data.kv_index(data.v.strides, 0, 200) + 5, std::numeric_limits<double>::quiet_NaN());
}

std::string LaterNaN::compare(const PaddedArray& o) const {
    constexpr std::int64_t kKey = 200, kMostTile = 128;
    for (std::int64_t query = 0; query < test_case.problem.q_len; ++query) {
        if (query < kKey && query > kKey - kMostTile) continue;  // by where its tile begins
        for (std::int64_t d = 0; d < test_case.problem.head_dim; ++d)
            if (std::isnan(o.get(data.index(o.strides, 0, query) + d)) != (query >= kKey && d == 5))
                return "query " + std::to_string(query) + " channel " + std::to_string(d);
    }
    return {};
}

const AttentionKernel& reference_of(AttentionFormat format) {
    if (format == AttentionFormat::none) return reference::kAttention;
    return format == AttentionFormat::int8 ? reference::kInt8Attention : reference::kRoundedAttention;
}

void AttentionData::solve() {
    const AttentionProblem& p = test_case.problem;
    keys.resize(at(p.kv_maps() * p.k_len * p.head_dim));
    values = keys;
    for (std::int64_t map = 0; map < p.kv_maps(); ++map) {
        for (std::int64_t key = 0; key < p.k_len; ++key) {
            for (std::int64_t d = 0; d < p.head_dim; ++d) {
                keys[at((map * p.head_dim + d) * p.k_len + key)] = k.get(kv_index(k.strides, map, key) + d);
                values[at((map * p.k_len + key) * p.head_dim + d)] = v.get(kv_index(v.strides, map, key) + d);
            }
        }
    }
    const std::int64_t rows = p.batch * p.heads * p.q_len;
    exact.assign(at(rows * p.head_dim), 0.0);
    bound.assign(at(rows * p.head_dim), 0.0);
    weight_rounding.assign(at(rows * p.head_dim), 0.0);
    lse.assign(at(rows), -std::numeric_limits<double>::infinity());
    lse_bound.assign(at(rows), 0.0);
    for (std::int64_t row = 0; row < rows; ++row)
        Row(*this, row / p.q_len, row % p.q_len).solve(*this, row * p.head_dim);
}

void AttentionData::solve(const AttentionKernel& kernel) {
    if (product_error == static_cast<double>(kernel.product_error)) return;
    product_error = static_cast<double>(kernel.product_error);
    solve();
}

PaddedArray make_output(const AttentionCase& test_case) {
    return make_array(test_case, test_case.problem.heads, test_case.problem.q_len);
}

AttentionCall call_of(const AttentionData& data) {
    const AttentionProblem& problem = data.test_case.problem;
    AttentionCall call;
    call.q = data.q.bytes.data();
    call.k = data.k.bytes.data();
    call.v = data.v.bytes.data();
    call.q_strides = data.q.strides;
    call.k_strides = data.k.strides;
    call.v_strides = data.v.strides;
    call.scale = 1.0F / std::sqrt(static_cast<float>(problem.head_dim));
    if (problem.biased) call.bias = data.bias.data();
    const BlockMask& mask = data.test_case.mask;
    if (problem.masked) call.mask = {mask.row_start.data(), mask.columns.data()};
    return call;
}

PaddedArray run_attention(const AttentionKernel& kernel, const AttentionData& data) {
    return run_attention(kernel, data, data.test_case.problem, call_of(data));
}

PaddedArray run_attention(const AttentionKernel& kernel, const AttentionData& data,
                          const AttentionProblem& problem, AttentionCall call) {
    PaddedArray o = make_output(data.test_case);
    constexpr std::size_t kAlignment = 64, kGuard = 256;
    const std::size_t size = kernel.workspace_bytes(problem);
    std::vector<std::byte> workspace(size + kAlignment + kGuard, kPoison);
    void* aligned = workspace.data();
    std::size_t space = workspace.size();
    std::align(kAlignment, size + kGuard, aligned, space);
    call.o = o.bytes.data();
    call.o_strides = o.strides;
    call.o_strides.order = data.q.strides.order;
    call.workspace = static_cast<std::byte*>(aligned);
    kernel.run(problem, call);
    const auto* guard = call.workspace + size;
    EXPECT_TRUE(std::all_of(guard, guard + kGuard, [](std::byte b) { return b == kPoison; }))
        << kernel.name << " wrote behind its workspace: " << data.test_case.line;
    return o;
}

std::string compare(const AttentionData& data, const PaddedArray& o, bool rounds_weights) {
    const AttentionProblem& p = data.test_case.problem;
    PaddedArray rest = o;  // all of o but the elements: must still be poison
    for (std::int64_t i = 0; i < p.batch * p.heads * p.q_len * p.head_dim; ++i) {
        const std::int64_t row = i / p.head_dim;
        const std::int64_t place = data.index(o.strides, row / p.q_len, row % p.q_len) + i % p.head_dim;
        const double got = o.get(place), want = data.exact[at(i)];
        std::memset(rest.bytes.data() + at(place) * size_of(o.dtype), 0xFF, size_of(o.dtype));
        const double bound = data.bound[at(i)] + (rounds_weights ? data.weight_rounding[at(i)] : 0.0);
        if (std::isnan(want) ? std::isnan(got) : std::fabs(got - want) <= bound) continue;
        std::ostringstream text;
        text << "map " << row / p.q_len << " query " << row % p.q_len << " channel " << i % p.head_dim
             << ": got " << got << ", want " << want << " +- " << bound << " (" << data.test_case.line << ")";
        return text.str();
    }
    const bool clean =
        std::all_of(rest.bytes.begin(), rest.bytes.end(), [](std::byte b) { return b == kPoison; });
    return clean ? "" : "wrote outside the output: " + data.test_case.line;
}

std::vector<float> run_for_lse(const AttentionKernel& kernel, const AttentionData& data,
                               AttentionProblem problem, AttentionCall call, PaddedArray* o) {
    problem.wants_lse = true;
    std::vector<float> lse(at(problem.maps() * problem.q_len + 1), std::nanf(""));
    call.lse = lse.data();
    PaddedArray output = run_attention(kernel, data, problem, call);
    if (o != nullptr) *o = std::move(output);
    EXPECT_TRUE(std::isnan(lse.back())) << kernel.name << " wrote behind the log-sum-exp";
    lse.pop_back();
    return lse;
}

std::string compare_lse(const AttentionData& data, const std::vector<float>& lse) {
    for (std::size_t i = 0; i < data.lse.size(); ++i) {
        const auto got = static_cast<double>(lse[i]);
        if (got == data.lse[i] || std::fabs(got - data.lse[i]) <= data.lse_bound[i]) continue;
        std::ostringstream text;
        text << "lse of row " << i << ": got " << got << ", want " << data.lse[i] << " +- "
             << data.lse_bound[i] << " (" << data.test_case.line << ")";
        return text.str();
    }
    return "";
}

TEST(AttentionOracle, TwoKeysByHand) {
    const AttentionCase test_case = parse_attention_case("q_len=1 k_len=2 head_dim=1");
    AttentionData data(test_case);
    data.q.set(0, 1.0);
    data.k.set(data.index(data.k.strides, 0, 0), 0.0);
    data.k.set(data.index(data.k.strides, 0, 1), 1.0);
    data.v.set(data.index(data.v.strides, 0, 0), 0.0);
    data.v.set(data.index(data.v.strides, 0, 1), 4.0);
    data.solve();
    EXPECT_NEAR(data.exact[0], 4.0 * std::exp(1.0) / (1.0 + std::exp(1.0)), 1e-14);
    EXPECT_NEAR(data.lse[0], std::log(1.0 + std::exp(1.0)), 1e-14);
    EXPECT_LT(data.lse_bound[0], 1e-5);
    EXPECT_LT(data.bound[0], 1e-5);
    EXPECT_GT(data.bound[0], 1e-7);
}

TEST(AttentionOracle, BoundsStayMeaningful) {
    for (const AttentionCase& test_case : attention_cases()) {
        const AttentionData data(test_case);
        double largest = 0.0, scale = 0.0;
        for (const double bound : data.bound) largest = std::max(largest, bound);
        for (const double exact : data.exact) scale = std::max(scale, std::fabs(exact));
        const double allowed = test_case.values == Values::large ? 0.3 : 0.01;
        EXPECT_LE(largest, allowed * scale + 1e-40) << test_case.line;
    }
}

}  // namespace aerogel::testing
