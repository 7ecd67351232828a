// The sample's mask bits do not depend on the content, so they are looked up once for all heads
// (plan_tables.h); per head remain a small matrix product, a softmax and one weighted sum per mask.
#include "sparse/recognition.h"

#include <algorithm>

#include "ops/planning.h"
#include "sparse/plan_scratch.h"

namespace aerogel {

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

SampledTokens sampled_tokens(const SparseGeometry& geometry) {
    const RecognitionSample sample = recognition_sample(geometry);
    const TokenOrder raster = raster_order(geometry);
    SampledTokens tokens = {{}, {}, geometry.block};
    for (const std::int64_t place : sample.queries)
        tokens.queries.push_back(raster[static_cast<std::size_t>(place)]);
    for (const std::int64_t place : sample.keys)
        tokens.keys.push_back(raster[static_cast<std::size_t>(place)]);
    return tokens;
}

void recognise_heads(const RecognitionCall& call, const RecognisedHeads& heads) {
    const PlanTables& tables = call.tables;
    const PlanningKernels& kernels = planning_kernels(tables.device);
    const std::int64_t queries = tables.sampled_queries, keys = tables.sampled_keys, padded = in_panels(keys),
                       types = tables.choices(), dim = call.q.head_dim, group = call.q.heads / call.k.heads;
    const auto floats =
        static_cast<std::size_t>(dim * (group * queries + padded) + group * queries * (padded + types));
    const std::int64_t most = maps_at_once(call.k.maps(), floats * sizeof(float));
    PlanScratch scratch(static_cast<std::size_t>(most) * floats * sizeof(float), tables.device);
    for (std::int64_t first = 0; first < call.k.maps(); first += most) {
        const std::int64_t kv_maps = std::min(most, call.k.maps() - first), maps = kv_maps * group;
        scratch.reuse();
        const CellMeansArgs of_q = {call.q.planning_rows(first * group, maps),
                                    values_of<IndexRange>(tables.query_cells),
                                    queries,
                                    false,
                                    scratch.take<float>(maps * queries * dim),
                                    call.context.stream};
        const CellMeansArgs of_k = {call.k.planning_rows(first, kv_maps),
                                    values_of<IndexRange>(tables.key_cells),
                                    keys,
                                    true,
                                    scratch.take<float>(kv_maps * padded * dim),
                                    call.context.stream};
        const MeanProductsArgs products = {
            of_q.means, of_k.means, scratch.take<float>(maps * queries * padded),
            maps,       group,      queries,
            keys,       dim,        call.context.stream};
        SampleRecallsArgs recalls;
        recalls.scores = products.scores;
        recalls.maps = maps;
        recalls.queries = queries;
        recalls.keys = keys;
        recalls.masks = values_of<std::uint8_t>(tables.sample_masks);
        recalls.types = types;
        recalls.scale = call.scale;
        recalls.min_recall = call.min_recall;
        recalls.shares = scratch.take<float>(maps * queries * types);
        recalls.recalls = heads.recalls + first * group * types;
        recalls.choice = heads.choice + first * group;
        recalls.stream = call.context.stream;
        kernels.cell_means(of_q);
        kernels.cell_means(of_k);
        kernels.mean_products(products);
        kernels.sample_recalls(recalls);
    }
}

}  // namespace aerogel
