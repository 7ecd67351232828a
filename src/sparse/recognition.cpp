// The sample's mask bits do not depend on the content, so they are looked up once for all heads; per head
// remain a small matrix product, a softmax and one weighted sum per mask.
#include "sparse/recognition.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"

namespace aerogel {
namespace {

constexpr std::array<HeadType, 3> kCandidates = {HeadType::spatial, HeadType::temporal, HeadType::textural};

// Keys are scored in panels of this many; the last panel is filled up with keys of weight zero.
constexpr std::size_t kPanel = 32;

std::size_t padded(std::size_t keys) {
    return (keys + kPanel - 1) / kPanel * kPanel;
}

// Per candidate: [queries, padded keys] of 0 and 1, whether that score lies in a kept block.
using SampleMasks = std::array<std::vector<float>, kCandidates.size()>;

SampleMasks sample_masks(const SparseGeometry& geometry, const RecognitionSample& sample) {
    SampleMasks masks;
    const TokenOrder raster = raster_order(geometry);
    for (std::size_t m = 0; m < kCandidates.size(); ++m) {
        const Pattern& pattern = pattern_of(kCandidates[m]);
        const TokenLayout layout = pattern.layout(geometry);
        const BlockGrid grid = pattern.static_blocks(geometry);
        const TokenOrder q_place = inverse_order(layout.q);
        const TokenOrder k_place = inverse_order(layout.k);
        const auto block_of = [&](const TokenOrder& places, std::int64_t token) {
            const std::int32_t outside = raster[static_cast<std::size_t>(token)];
            return places[static_cast<std::size_t>(outside)] / geometry.block;
        };
        std::vector<std::int64_t> columns;
        for (const std::int64_t key : sample.keys) columns.push_back(block_of(k_place, key));
        masks[m].reserve(sample.queries.size() * padded(sample.keys.size()));
        for (const std::int64_t query : sample.queries) {
            const auto* row = grid.data() + block_of(q_place, query) * geometry.blocks();
            for (const std::int64_t column : columns) masks[m].push_back(row[column]);
            masks[m].resize(padded(masks[m].size()), 0.0F);
        }
    }
    return masks;
}

// e^x for x in [-87, -0] to about 1e-6 relative; everything else, +0 and NaN included, counts as -87.
// Clamped by its bits (those of negative numbers grow with their size), because a comparison of floats
// would keep the compiler from vectorising.
inline float exp_negative(float x) {
    const float clamped =
        std::bit_cast<float>(std::min(std::bit_cast<std::int32_t>(x), std::bit_cast<std::int32_t>(-87.0F)));
    const float shifted = clamped * 1.44269504F + 12582912.0F;  // 1.5 * 2^23: rounds to an integer
    const float power = shifted - 12582912.0F;
    const float rest = clamped - power * 0.693359375F + power * 2.12194440e-4F;
    float series = 1.3888889e-3F;
    series = series * rest + 8.3333333e-3F;
    series = series * rest + 4.1666667e-2F;
    series = series * rest + 1.6666667e-1F;
    series = series * rest + 0.5F;
    series = series * rest + 1.0F;
    series = series * rest + 1.0F;
    const auto exponent = (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(12582912.0F))
                          << 23;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(series) + exponent);
}

// Sampled keys of one head as panels [panel, head_dim, kPanel] of float32.
std::vector<float> key_panels(const HeadRows& k, std::int64_t map, const std::vector<std::int64_t>& tokens) {
    const auto dim = static_cast<std::size_t>(k.head_dim);
    std::vector<float> panels(padded(tokens.size()) * dim, 0.0F);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        float row[256] = {};
        k.add_row(map, tokens[i], row);
        float* out = panels.data() + i / kPanel * kPanel * dim + i % kPanel;
        for (std::size_t d = 0; d < dim; ++d) out[d * kPanel] = row[d];
    }
    return panels;
}

// scores[key] = sum over d of query[d] * key[d], for whole panels.
void score_keys(const float* query, const std::vector<float>& panels, std::size_t dim,
                std::vector<float>& scores) {
    const float* key = panels.data();
    for (std::size_t begin = 0; begin < scores.size(); begin += kPanel) {
        float sums[kPanel] = {};
        for (std::size_t d = 0; d < dim; ++d, key += kPanel) {
            for (std::size_t i = 0; i < kPanel; ++i) sums[i] += query[d] * key[i];
        }
        std::copy_n(sums, kPanel, scores.data() + begin);
    }
}

// Sums over whole panels in a fixed number of lanes, so that they vectorise and their order is fixed.
template <typename Term>
float lane_sum(std::size_t count, const Term& term) {
    constexpr std::size_t kLanes = 16;
    float lanes[kLanes] = {};
    for (std::size_t i = 0; i < count; i += kLanes) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
    }
    float sum = 0.0F;
    for (const float lane : lanes) sum += lane;
    return sum;
}
float sum_of(const float* values, std::size_t count) {
    return lane_sum(count, [=](std::size_t i) { return values[i]; });
}
float dot(const float* a, const float* b, std::size_t count) {
    return lane_sum(count, [=](std::size_t i) { return a[i] * b[i]; });
}

// The largest value, NaNs aside.
float largest(const float* values, std::size_t count) {
    float lanes[8];
    std::fill_n(lanes, 8, -std::numeric_limits<float>::infinity());
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (std::size_t lane = 0; lane < 8; ++lane)
            lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
    for (; i < count; ++i) lanes[0] = std::max(lanes[0], values[i]);
    return *std::max_element(lanes, lanes + 8);
}

struct SampledCall {
    const HeadRows& q;
    const HeadRows& k;
    std::vector<std::int64_t> query_tokens;  // of the call's sequence
    std::vector<std::int64_t> key_tokens;
    SampleMasks masks;
    float scale;
};

// Kept share of the sampled attention of one head under each candidate.
std::array<double, kCandidates.size()> recalls(const SampledCall& call, std::int64_t map) {
    const auto dim = static_cast<std::size_t>(call.q.head_dim);
    const std::vector<float> panels = key_panels(call.k, map, call.key_tokens);
    const std::size_t key_count = padded(call.key_tokens.size());
    std::vector<float> scores(key_count);
    std::array<double, kCandidates.size()> kept = {};
    for (std::size_t row = 0; row < call.query_tokens.size(); ++row) {
        float query[256] = {};
        call.q.add_row(map, call.query_tokens[row], query);
        score_keys(query, panels, dim, scores);
        std::fill(scores.begin() + static_cast<std::ptrdiff_t>(call.key_tokens.size()), scores.end(),
                  -std::numeric_limits<float>::infinity());
        const float highest = largest(scores.data(), call.key_tokens.size());
        for (float& score : scores) score = exp_negative((highest - score) * -call.scale);
        const float total = sum_of(scores.data(), key_count);
        for (std::size_t m = 0; m < kCandidates.size(); ++m)
            kept[m] += dot(scores.data(), call.masks[m].data() + row * key_count, key_count) / total;
    }
    for (double& share : kept) share /= static_cast<double>(call.query_tokens.size());
    return kept;
}

}  // namespace

std::vector<std::int64_t> spread_sample(std::int64_t range, std::int64_t count) {
    count = std::min(range, count);
    std::vector<std::int64_t> sample;
    for (std::int64_t i = 0; i < count; ++i) {
        const auto inside = static_cast<std::int64_t>(static_cast<std::uint32_t>(i) * 2654435769U >> 16);
        sample.push_back(((i << 16) + inside) * range / count >> 16);
    }
    return sample;
}

RecognitionSample recognition_sample(const SparseGeometry& geometry) {
    const std::int64_t tokens = geometry.tokens();
    const std::int64_t free_tokens = geometry.video() - geometry.protected_tokens();
    RecognitionSample sample;
    sample.queries = spread_sample(free_tokens, std::clamp<std::int64_t>(tokens / 128, 16, 64));
    for (std::int64_t& query : sample.queries) query += geometry.protected_tokens();
    sample.keys = spread_sample(tokens, std::clamp<std::int64_t>(tokens / 8, 256, 4096));
    return sample;
}

std::vector<Recognition> recognise_heads(const HeadRows& q, const HeadRows& k, const SparseGeometry& geometry,
                                         float scale, double min_recall) {
    const RecognitionSample sample = recognition_sample(geometry);
    const TokenOrder raster = raster_order(geometry);
    SampledCall call{q, k, {}, {}, sample_masks(geometry, sample), scale};
    for (const std::int64_t place : sample.queries)
        call.query_tokens.push_back(raster[static_cast<std::size_t>(place)]);
    for (const std::int64_t place : sample.keys)
        call.key_tokens.push_back(raster[static_cast<std::size_t>(place)]);
    std::vector<Recognition> heads(static_cast<std::size_t>(q.maps()));
    parallel_for(q.maps(), [&](std::int64_t map, int) {
        const auto shares = recalls(call, map);
        Recognition& head = heads[static_cast<std::size_t>(map)];
        head.type = kCandidates[0];
        head.recall = shares[0];
        for (std::size_t m = 1; m < kCandidates.size(); ++m) {
            if (shares[m] > head.recall) head = {kCandidates[m], shares[m]};
        }
        if (head.recall < min_recall) head.type = HeadType::dense;
    });
    return heads;
}

}  // namespace aerogel
