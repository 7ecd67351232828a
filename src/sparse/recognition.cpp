// The sample's mask bits do not depend on the content, so they are looked up once for all heads; per head
// remain a small matrix product, a softmax (sampled_attention.h) and one weighted sum per mask.
#include "sparse/recognition.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/thread_pool.h"
#include "sparse/head_rows.h"
#include "sparse/sampled_attention.h"

namespace aerogel {
namespace {

// [queries, padded keys] of 0 and 1: whether that score lies in a block that the pattern keeps.
std::vector<float> sample_mask(const HeadPattern& pattern, const SparseGeometry& geometry,
                               const RecognitionSample& sample, const TokenOrder& raster) {
    const BlockGrid grid = pattern.static_blocks(geometry);
    const TokenOrder q_place = inverse_order(pattern.q_order(geometry));
    const TokenOrder k_place = inverse_order(pattern.k_order(geometry));
    const auto block_of = [&](const TokenOrder& places, std::int64_t token) {
        const std::int32_t outside = raster[static_cast<std::size_t>(token)];
        return places[static_cast<std::size_t>(outside)] / geometry.block;
    };
    std::vector<std::int64_t> columns;
    for (const std::int64_t key : sample.keys) columns.push_back(block_of(k_place, key));
    std::vector<float> mask;
    mask.reserve(sample.queries.size() * SampledKeys::padded(sample.keys.size()));
    for (const std::int64_t query : sample.queries) {
        const auto* row = grid.data() + block_of(q_place, query) * geometry.blocks();
        for (const std::int64_t column : columns) mask.push_back(row[column]);
        mask.resize(SampledKeys::padded(mask.size()), 0.0F);
    }
    return mask;
}

struct SampledCall {
    const RecognitionCall& call;
    std::vector<std::int64_t> query_tokens;  // of the call's sequence
    std::vector<std::int64_t> key_tokens;
    std::vector<std::vector<float>> masks;  // of each pattern
};

// Kept share of the sampled attention of one head under each mask; NaN where q or k is not finite.
std::vector<double> recalls_of(const SampledCall& sampled, std::int64_t map) {
    const auto& [q, k, row, scale, min_recall] = sampled.call;
    const SampledKeys keys(k, kv_map(q, k, map), sampled.key_tokens);
    const MapRows queries = q.rows(map);
    std::vector<float> weights(keys.padded_count());
    std::vector<double> kept(sampled.masks.size(), 0.0);
    bool finite = keys.finite();
    for (std::size_t i = 0; i < sampled.query_tokens.size(); ++i) {
        float query[256] = {};
        q.add_row(queries.at(sampled.query_tokens[i]), query);
        finite = finite && std::all_of(query, query + 256, [](float x) { return std::isfinite(x); });
        const float total = keys.softmax_weights(query, scale, weights);
        for (std::size_t m = 0; m < kept.size(); ++m) {
            const float* mask = sampled.masks[m].data() + i * weights.size();
            kept[m] += sampled_dot(weights.data(), mask, weights.size()) / total;
        }
    }
    for (double& share : kept) share /= static_cast<double>(sampled.query_tokens.size());
    if (!finite) kept.assign(kept.size(), std::numeric_limits<double>::quiet_NaN());
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

std::vector<SparseHead> recognise_heads(const RecognitionCall& call, const SparseGeometry& geometry) {
    const RecognitionSample sample = recognition_sample(geometry);
    const TokenOrder raster = raster_order(geometry);
    SampledCall sampled{call, {}, {}, {}};
    for (const std::int64_t place : sample.queries)
        sampled.query_tokens.push_back(raster[static_cast<std::size_t>(place)]);
    for (const std::int64_t place : sample.keys)
        sampled.key_tokens.push_back(raster[static_cast<std::size_t>(place)]);
    const auto patterns = call.row.head_patterns();
    for (const HeadPattern* pattern : patterns)
        sampled.masks.push_back(sample_mask(*pattern, geometry, sample, raster));
    std::vector<SparseHead> heads(static_cast<std::size_t>(call.q.maps()));
    parallel_for(call.q.maps(), [&](std::int64_t map, int) {
        const std::vector<double> recalls = recalls_of(sampled, map);
        const auto best = std::max_element(recalls.begin(), recalls.end()) - recalls.begin();
        SparseHead& head = heads[static_cast<std::size_t>(map)];
        head.recall = recalls[static_cast<std::size_t>(best)];
        if (head.recall >= call.min_recall) head.type = patterns[static_cast<std::size_t>(best)]->name;
        for (std::size_t m = 0; m < recalls.size(); ++m)
            head.recalls.emplace_back(patterns[m]->name, recalls[m]);
    });
    for (const SparseHead& head : heads) {
        if (std::isnan(head.recall)) fail_not_finite(call.q, call.k);
    }
    return heads;
}

}  // namespace aerogel
