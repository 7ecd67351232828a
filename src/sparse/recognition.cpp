// The sample's mask bits do not depend on the content, so they are looked up once for all heads
// (plan_tables.h); per head remain a small matrix product, a softmax and one weighted sum per mask. For the
// error of outputs, the values are weighted too.
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

namespace {

class Recognition {
  public:
    Recognition(const RecognitionCall& call, const RecognisedHeads& heads)
        : call_(call),
          heads_(heads),
          tables_(call.tables),
          kernels_(planning_kernels(tables_.device)),
          queries_(tables_.sampled_queries),
          keys_(tables_.sampled_keys),
          types_(tables_.choices()),
          dim_(call.q.head_dim),
          group_(call.q.heads / call.k.heads),
          most_(maps_at_once(call.k.maps(), bytes_of_map())),
          scratch_(static_cast<std::size_t>(most_) * bytes_of_map(), tables_.device) {}

    void run() {
        for (std::int64_t first = 0; first < call_.k.maps(); first += most_) {
            scratch_.reuse();
            recognise(first, std::min(most_, call_.k.maps() - first));
        }
    }

  private:
    // Of a map of k and those of q that meet it.
    std::size_t bytes_of_map() const {
        const std::int64_t padded = in_panels(keys_), rows = group_ * queries_;
        std::int64_t floats = dim_ * (rows + padded) + rows * (padded + types_);
        if (call_.v != nullptr) floats += keys_ * dim_ + 2 * rows * types_ + 1;
        return static_cast<std::size_t>(floats) * sizeof(float);
    }

    // Rows of one token each.
    float* sampled(const PlanningRows& rows, const Tensor& cells, std::int64_t count, bool panels) {
        const CellMeansArgs args = {
            rows,
            values_of<IndexRange>(cells),
            count,
            panels,
            scratch_.take<float>(rows.maps * (panels ? in_panels(count) : count) * dim_),
            call_.context.stream};
        kernels_.cell_means(args);
        return args.means;
    }

    void recognise(std::int64_t first, std::int64_t kv_maps) {
        const std::int64_t maps = kv_maps * group_;
        const float* q =
            sampled(call_.q.planning_rows(first * group_, maps), tables_.query_cells, queries_, false);
        const float* k = sampled(call_.k.planning_rows(first, kv_maps), tables_.key_cells, keys_, true);
        float* const scores = scratch_.take<float>(maps * queries_ * in_panels(keys_));
        kernels_.mean_products({q, k, scores, maps, group_, queries_, keys_, dim_, call_.context.stream});
        SampleRecallsArgs recalls;
        recalls.scores = scores;
        recalls.maps = maps;
        recalls.queries = queries_;
        recalls.keys = keys_;
        recalls.masks = values_of<std::uint8_t>(tables_.sample_masks);
        recalls.types = types_;
        recalls.scale = call_.scale;
        recalls.min_recall = call_.min_recall;
        recalls.shares = scratch_.take<float>(maps * queries_ * types_);
        recalls.recalls = heads_.recalls + first * group_ * types_;
        recalls.choice = heads_.choice + first * group_;
        recalls.stream = call_.context.stream;
        kernels_.sample_recalls(recalls);
        if (call_.v != nullptr) look_at_outputs(recalls, call_.v->planning_rows(first, kv_maps));
    }

    void look_at_outputs(const SampleRecallsArgs& recalls, const PlanningRows& v) {
        SampleErrorsArgs errors;
        errors.values = sampled(v, tables_.key_cells, keys_, false);
        errors.weights = recalls.scores;
        errors.masks = recalls.masks;
        errors.recalls = recalls.recalls;
        scratch_.align(sizeof(double));
        errors.errors = scratch_.take<double>(recalls.maps * queries_ * types_);
        errors.choice = recalls.choice;
        errors.maps = recalls.maps;
        errors.group = group_;
        errors.queries = queries_;
        errors.keys = keys_;
        errors.head_dim = dim_;
        errors.types = types_;
        errors.min_recall = call_.min_recall;
        errors.stream = recalls.stream;
        kernels_.sample_errors(errors);
    }

    const RecognitionCall& call_;
    const RecognisedHeads& heads_;
    const PlanTables& tables_;
    const PlanningKernels& kernels_;
    std::int64_t queries_, keys_, types_, dim_, group_;
    std::int64_t most_;  // maps of k at a time
    PlanScratch scratch_;
};

}  // namespace

void recognise_heads(const RecognitionCall& call, const RecognisedHeads& heads) {
    Recognition(call, heads).run();
}

}  // namespace aerogel
