// The sample's mask bits do not depend on the content, so they are looked up once for all heads; per head
// remain a small matrix product, a softmax and one weighted sum per mask.
#include "sparse/recognition.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"

namespace aerogel {
namespace {

constexpr std::array<HeadType, 3> kCandidates = {HeadType::spatial, HeadType::temporal, HeadType::textural};

// Per candidate: [queries, keys] of 0 and 1, whether that score lies in a kept block.
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
        masks[m].reserve(sample.queries.size() * sample.keys.size());
        for (const std::int64_t query : sample.queries) {
            const auto* row = grid.data() + block_of(q_place, query) * geometry.blocks();
            for (const std::int64_t column : columns) masks[m].push_back(row[column]);
        }
    }
    return masks;
}

// e^x for x <= 0 to about 1e-6 relative, in plain operations that the compiler vectorises.
inline float exp_negative(float x) {
    const float clamped = std::max(x, -87.0F);
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
    const auto exponent = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(12582912.0F);
    return std::bit_cast<float>(std::bit_cast<std::int32_t>(series) + exponent * (1 << 23));
}

// Sampled rows of one head as float32: queries [n, head_dim] or keys transposed [head_dim, n].
std::vector<float> sampled_rows(const HeadRows& rows, std::int64_t map,
                                const std::vector<std::int64_t>& tokens, bool transposed) {
    const auto dim = static_cast<std::size_t>(rows.head_dim);
    std::vector<float> result(tokens.size() * dim);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        float values[256] = {};
        rows.add_row(map, tokens[i], values);
        for (std::size_t d = 0; d < dim; ++d)
            result[transposed ? d * tokens.size() + i : i * dim + d] = values[d];
    }
    return result;
}

// scores[key] = sum over d of query[d] * keys[d, key].
void score_keys(const float* query, const std::vector<float>& keys, std::size_t dim,
                std::vector<float>& scores) {
    constexpr std::size_t kTile = 32;
    const std::size_t count = scores.size();
    for (std::size_t begin = 0; begin < count; begin += kTile) {
        float sums[kTile] = {};
        const std::size_t width = std::min(kTile, count - begin);
        if (width == kTile) {
            for (std::size_t d = 0; d < dim; ++d) {
                const float* row = keys.data() + d * count + begin;
                for (std::size_t i = 0; i < kTile; ++i) sums[i] += query[d] * row[i];
            }
        } else {
            for (std::size_t d = 0; d < dim; ++d) {
                for (std::size_t i = 0; i < width; ++i) sums[i] += query[d] * keys[d * count + begin + i];
            }
        }
        std::copy_n(sums, width, scores.data() + begin);
    }
}

// Sum of a[i] * b[i] in eight lanes, so that it vectorises and its order is fixed.
float dot(const float* a, const float* b, std::size_t count) {
    float lanes[8] = {};
    std::size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
    }
    float sum = 0.0F;
    for (; i < count; ++i) sum += a[i] * b[i];
    for (const float lane : lanes) sum += lane;
    return sum;
}

struct SampledCall {
    const HeadRows& q;
    const HeadRows& k;
    std::vector<std::int64_t> query_tokens;  // of the call's sequence
    std::vector<std::int64_t> key_tokens;
    SampleMasks masks;
    std::vector<float> ones;
    float scale;
};

// Kept share of the sampled attention of one head under each candidate.
std::array<double, kCandidates.size()> recalls(const SampledCall& call, std::int64_t map) {
    const auto dim = static_cast<std::size_t>(call.q.head_dim);
    const std::vector<float> queries = sampled_rows(call.q, map, call.query_tokens, false);
    const std::vector<float> keys = sampled_rows(call.k, map, call.key_tokens, true);
    const std::size_t key_count = call.key_tokens.size();
    std::vector<float> scores(key_count);
    std::array<double, kCandidates.size()> kept = {};
    for (std::size_t row = 0; row < call.query_tokens.size(); ++row) {
        score_keys(queries.data() + row * dim, keys, dim, scores);
        const float highest = *std::max_element(scores.begin(), scores.end());
        for (float& score : scores) score = exp_negative((score - highest) * call.scale);
        const float total = dot(scores.data(), call.ones.data(), key_count);
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
    sample.keys = spread_sample(tokens, std::clamp<std::int64_t>(tokens / 4, 256, 4096));
    return sample;
}

std::vector<Recognition> recognise_heads(const HeadRows& q, const HeadRows& k, const SparseGeometry& geometry,
                                         float scale, double min_recall) {
    const RecognitionSample sample = recognition_sample(geometry);
    const TokenOrder raster = raster_order(geometry);
    SampledCall call{q, k, {}, {}, sample_masks(geometry, sample), {}, scale};
    for (const std::int64_t place : sample.queries)
        call.query_tokens.push_back(raster[static_cast<std::size_t>(place)]);
    for (const std::int64_t place : sample.keys)
        call.key_tokens.push_back(raster[static_cast<std::size_t>(place)]);
    call.ones.assign(sample.keys.size(), 1.0F);
    std::vector<Recognition> heads(static_cast<std::size_t>(q.maps()));
    parallel_for(q.maps(), [&](std::int64_t map, int) {
        const auto shares = recalls(call, map);
        Recognition& head = heads[static_cast<std::size_t>(map)];
        head.type = kCandidates[0];
        head.recall = std::isnan(shares[0]) ? 0.0 : shares[0];
        for (std::size_t m = 1; m < kCandidates.size(); ++m) {
            if (shares[m] > head.recall) head = {kCandidates[m], shares[m]};
        }
        if (head.recall < min_recall) head.type = HeadType::dense;
    });
    return heads;
}

}  // namespace aerogel
