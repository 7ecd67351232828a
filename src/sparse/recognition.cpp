// The sample's mask bits do not depend on the content, so they are looked up once for all heads; per head
// remain a small matrix product, a softmax (sampled_attention.h) and one weighted sum per mask.
#include "sparse/recognition.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/thread_pool.h"
#include "sparse/sampled_attention.h"

namespace aerogel {
namespace {

constexpr std::array<HeadType, 3> kCandidates = {HeadType::spatial, HeadType::temporal, HeadType::textural};

// Per candidate: [queries, padded keys] of 0 and 1, whether that score lies in a kept block.
using SampleMasks = std::array<std::vector<float>, kCandidates.size()>;

SampleMasks sample_masks(const SparseGeometry& geometry, const RecognitionSample& sample) {
    SampleMasks masks;
    const TokenOrder raster = raster_order(geometry);
    for (std::size_t m = 0; m < kCandidates.size(); ++m) {
        const Pattern& pattern = pattern_of(kCandidates[m]);
        const BlockGrid grid = pattern.static_blocks(geometry);
        const TokenOrder q_place = inverse_order(pattern.q_order(geometry));
        const TokenOrder k_place = inverse_order(pattern.k_order(geometry));
        const auto block_of = [&](const TokenOrder& places, std::int64_t token) {
            const std::int32_t outside = raster[static_cast<std::size_t>(token)];
            return places[static_cast<std::size_t>(outside)] / geometry.block;
        };
        std::vector<std::int64_t> columns;
        for (const std::int64_t key : sample.keys) columns.push_back(block_of(k_place, key));
        masks[m].reserve(sample.queries.size() * SampledKeys::padded(sample.keys.size()));
        for (const std::int64_t query : sample.queries) {
            const auto* row = grid.data() + block_of(q_place, query) * geometry.blocks();
            for (const std::int64_t column : columns) masks[m].push_back(row[column]);
            masks[m].resize(SampledKeys::padded(masks[m].size()), 0.0F);
        }
    }
    return masks;
}

struct SampledCall {
    const HeadRows& q;
    const HeadRows& k;
    std::vector<std::int64_t> query_tokens;  // of the call's sequence
    std::vector<std::int64_t> key_tokens;
    SampleMasks masks;
    float scale;
};

// Kept share of the sampled attention of one head under each candidate; NaN where q or k is not finite.
std::array<double, kCandidates.size()> recalls(const SampledCall& call, std::int64_t map) {
    const SampledKeys keys(call.k, map, call.key_tokens);
    const MapRows queries = call.q.rows(map);
    std::vector<float> weights(keys.padded_count());
    std::array<double, kCandidates.size()> kept = {};
    bool finite = keys.finite();
    for (std::size_t row = 0; row < call.query_tokens.size(); ++row) {
        float query[256] = {};
        call.q.add_row(queries.at(call.query_tokens[row]), query);
        finite = finite && std::all_of(query, query + 256, [](float x) { return std::isfinite(x); });
        const float total = keys.softmax_weights(query, call.scale, weights);
        for (std::size_t m = 0; m < kCandidates.size(); ++m) {
            const float* mask = call.masks[m].data() + row * weights.size();
            kept[m] += sampled_dot(weights.data(), mask, weights.size()) / total;
        }
    }
    if (!finite) kept.fill(std::numeric_limits<double>::quiet_NaN());
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
    const std::int64_t tokens = geometry.tokens;
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
        const auto best = std::max_element(shares.begin(), shares.end());
        head = {kCandidates.at(static_cast<std::size_t>(best - shares.begin())), *best, shares};
        if (head.recall < min_recall) head.type = HeadType::dense;
    });
    return heads;
}

}  // namespace aerogel
