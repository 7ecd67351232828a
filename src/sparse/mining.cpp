// Per sampled query: its softmax over the sampled keys, summed by key block under every mask, and by cell of
// the picture. The layouts do not depend on the content and are made once per latent shape.
#include "sparse/mining.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "sparse/recognition.h"
#include "sparse/sampled_attention.h"

namespace aerogel {
namespace {

constexpr std::size_t kSparsities = kCurveSparsities.size() + 1;
constexpr std::size_t kCells = std::size_t{AttentionMiner::kPicture} * AttentionMiner::kPicture;
constexpr std::int64_t kQueries = 128;
constexpr std::int64_t kKeys = 8192;

std::span<const HeadPattern* const> candidates() {
    return sparse_type_row("rf_v1").head_patterns();
}

std::size_t score_count() {
    return candidates().size() * kSparsities;
}

std::size_t index_of(std::string_view type) {
    for (std::size_t i = 0; i < candidates().size(); ++i) {
        if (candidates()[i]->name == type) return i;
    }
    throw InvalidArgument(fmt::format("[mine] no static mask for head type {}", type));
}

std::size_t cell_of(std::int64_t place, std::int64_t tokens) {
    return static_cast<std::size_t>(place * AttentionMiner::kPicture / tokens);
}

SparseGeometry geometry_of(const MiningOptions& options, const LatentShape& latent, double sparsity) {
    return {{{0, latent}},
            latent.tokens(),
            options.pattern.block_size,
            sparsity,
            options.pattern.protect_first_frame};
}

double density_of(const BlockGrid& grid, const SparseGeometry& geometry) {
    const std::int64_t blocks = geometry.blocks();
    const auto tokens_in = [&](std::int64_t block) {
        return std::min(geometry.block, geometry.tokens - block * geometry.block);
    };
    double kept = 0.0;
    for (std::int64_t row = 0; row < blocks; ++row) {
        for (std::int64_t column = 0; column < blocks; ++column) {
            if (grid[static_cast<std::size_t>(row * blocks + column)] != 0)
                kept += static_cast<double>(tokens_in(row) * tokens_in(column));
        }
    }
    return kept / std::pow(static_cast<double>(geometry.tokens), 2);
}

}  // namespace

std::vector<std::string_view> mined_types() {
    std::vector<std::string_view> names;
    for (const HeadPattern* pattern : candidates()) names.push_back(pattern->name);
    return names;
}

AttentionMiner::AttentionMiner(const MiningOptions& options, int layers, int heads, int steps)
    : options_(options), layers_(layers), heads_(heads), steps_(steps) {
    if (!(options.pattern.sparsity >= 0.0 && options.pattern.sparsity < 1.0))
        throw InvalidArgument(fmt::format("[mine] sparsity must be at least 0 and less than 1, got {}",
                                          options.pattern.sparsity));
    if (options.pattern.block_size < 16 || options.pattern.block_size > 128)
        throw InvalidArgument(
            fmt::format("[mine] block_size must be 16 to 128, got {}", options.pattern.block_size));
    const std::size_t maps = static_cast<std::size_t>(layers) * static_cast<std::size_t>(heads);
    recalls_.resize(maps * static_cast<std::size_t>(steps) * score_count());
    observed_.resize(maps * static_cast<std::size_t>(steps));
    pictures_.resize(maps * kCells);
    picture_rows_.resize(maps * kPicture);
}

AttentionMiner::Mask AttentionMiner::mask_of(const HeadPattern& pattern, const SparseGeometry& geometry) {
    const auto blocks_of = [&](const TokenOrder& order) {
        std::vector<std::int32_t> blocks(order.size());
        for (std::size_t place = 0; place < order.size(); ++place)
            blocks[static_cast<std::size_t>(order[place])] =
                static_cast<std::int32_t>(static_cast<std::int64_t>(place) / geometry.block);
        return blocks;
    };
    BlockGrid grid = pattern.static_blocks(geometry);
    const double density = density_of(grid, geometry);
    return {blocks_of(pattern.q_order(geometry)), blocks_of(pattern.k_order(geometry)), std::move(grid),
            geometry.blocks(), density};
}

void AttentionMiner::prepare(const LatentShape& latent) {
    if (!masks_.empty()) {
        if (latent.frames != latent_.frames || latent.height != latent_.height ||
            latent.width != latent_.width)
            throw InvalidArgument("[mine] all videos must have one size");
        return;
    }
    latent_ = latent;
    const SparseGeometry geometry = geometry_of(options_, latent, options_.pattern.sparsity);
    const std::int64_t first =
        geometry.protected_tokens() < geometry.tokens ? geometry.protected_tokens() : 0;
    queries_ = spread_sample(geometry.tokens - first, kQueries);
    for (std::int64_t& query : queries_) query += first;
    keys_ = spread_sample(geometry.tokens, kKeys);
    for (const HeadPattern* pattern : candidates()) {
        masks_.push_back(mask_of(*pattern, geometry));
        for (const double sparsity : kCurveSparsities)
            masks_.push_back(mask_of(*pattern, geometry_of(options_, latent, sparsity)));
    }
}

const AttentionMiner::Mask& AttentionMiner::mask(std::size_t candidate, std::size_t sparsity) const {
    return masks_.at(candidate * kSparsities + sparsity);
}

std::size_t AttentionMiner::slot(int layer, int head, int step) const {
    if (layer < 0 || layer >= layers_ || head < 0 || head >= heads_ || step < 0 || step >= steps_) {
        throw InvalidArgument(fmt::format("[mine] layer, head, step must be below {}, {}, {}, got {}, {}, {}",
                                          layers_, heads_, steps_, layer, head, step));
    }
    return (static_cast<std::size_t>(layer) * static_cast<std::size_t>(heads_) +
            static_cast<std::size_t>(head)) *
               static_cast<std::size_t>(steps_) +
           static_cast<std::size_t>(step);
}

void AttentionMiner::observe(int layer, int step, const TensorView& q, const TensorView& k,
                             const LatentShape& latent) {
    if (q.shape.size() != 4 || q.dim(1) != latent.tokens() || q.dim(2) != heads_ || k.shape != q.shape) {
        throw InvalidArgument(fmt::format("[mine] q and k must be [batch,{},{},head_dim], got q {}, k {}",
                                          latent.tokens(), heads_, q.describe(), k.describe()));
    }
    prepare(latent);
    const std::size_t first = slot(layer, 0, step);
    const HeadRows q_rows(q, AttentionLayout::bsnd);
    const HeadRows k_rows(k, AttentionLayout::bsnd);
    // One task per head, which owns that head's sums; the videos of a batch follow each other.
    parallel_for(heads_, [&](std::int64_t head, int) {
        const auto index = static_cast<std::size_t>(head);
        for (std::int64_t video = 0; video < q_rows.batch; ++video) {
            observe_head(q_rows, k_rows, video * heads_ + head,
                         first + index * static_cast<std::size_t>(steps_),
                         static_cast<std::size_t>(layer) * static_cast<std::size_t>(heads_) + index);
        }
    });
}

void AttentionMiner::observe_head(const HeadRows& q, const HeadRows& k, std::int64_t map, std::size_t slot,
                                  std::size_t picture) {
    const SampledKeys keys(k, map, keys_);
    const MapRows rows = q.rows(map);
    const float scale = 1.0F / std::sqrt(static_cast<float>(q.head_dim));
    const std::size_t scores = score_count();
    std::vector<float> weights;
    for (const std::int64_t query_place : queries_) {
        float query[256] = {};
        q.add_row(rows.at(query_place), query);
        const float inverse = 1.0F / keys.softmax_weights(query, scale, weights);
        for (std::size_t m = 0; m < scores; ++m) {
            const Mask& mask = masks_[m];
            const auto* row =
                mask.grid.data() + mask.query_block[static_cast<std::size_t>(query_place)] * mask.blocks;
            float kept = 0.0F;
            for (std::size_t i = 0; i < keys_.size(); ++i) {
                if (row[mask.key_block[static_cast<std::size_t>(keys_[i])]] != 0) kept += weights[i];
            }
            recalls_[slot * scores + m] += static_cast<double>(kept * inverse);
        }
        const std::size_t picture_row = cell_of(query_place, latent_.tokens());
        float* cells = pictures_.data() + picture * kCells + picture_row * kPicture;
        for (std::size_t i = 0; i < keys_.size(); ++i)
            cells[cell_of(keys_[i], latent_.tokens())] += weights[i] * inverse;
        ++picture_rows_[picture * kPicture + picture_row];
    }
    observed_[slot] += static_cast<std::int64_t>(queries_.size());
}

double AttentionMiner::recall(int layer, int head, int step, std::string_view type) const {
    const std::size_t where = slot(layer, head, step);
    if (observed_[where] == 0)
        throw InvalidArgument(fmt::format("[mine] layer {} was not seen at step {}", layer, step));
    return recalls_[where * score_count() + index_of(type) * kSparsities] /
           static_cast<double>(observed_[where]);
}

std::vector<MaskScore> AttentionMiner::curve(int layer, int head, std::string_view type) const {
    const std::size_t candidate = index_of(type);
    std::vector<MaskScore> scores(kSparsities);
    for (std::size_t s = 0; s < kSparsities; ++s) {
        double kept = 0.0;
        std::int64_t rows = 0;
        for (int step = 0; step < steps_; ++step) {
            const std::size_t where = slot(layer, head, step);
            kept += recalls_[where * score_count() + candidate * kSparsities + s];
            rows += observed_[where];
        }
        scores[s] = {rows == 0 ? 0.0 : kept / static_cast<double>(rows), mask(candidate, s).density};
    }
    return scores;
}

SparseProfile AttentionMiner::profile() const {
    SparseProfile profile{latent_, options_.pattern, steps_, {}};
    // The best candidate over the steps [first, end).
    const auto best = [&](int layer, int head, int first, int end) {
        ProfileSpan span{first, end, "dense", -1.0};
        for (const HeadPattern* pattern : candidates()) {
            double sum = 0.0;
            for (int step = first; step < end; ++step) sum += recall(layer, head, step, pattern->name);
            if (const double mean = sum / (end - first); mean > span.recall)
                span = {first, end, std::string(pattern->name), mean};
        }
        if (span.recall < options_.pattern.min_recall) span.type = "dense";
        return span;
    };
    for (int layer = 0; layer < layers_; ++layer) {
        auto& heads = profile.layers.emplace_back();
        for (int head = 0; head < heads_; ++head) {
            auto& spans = heads.emplace_back();
            if (!options_.by_step) {
                spans.push_back(best(layer, head, 0, steps_));
                continue;
            }
            for (int step = 0; step < steps_; ++step) {
                const ProfileSpan now = best(layer, head, step, step + 1);
                if (!spans.empty() && spans.back().type == now.type) {
                    const int length = step - spans.back().first_step;
                    spans.back().recall = (spans.back().recall * length + now.recall) / (length + 1);
                    spans.back().end_step = step + 1;
                } else {
                    spans.push_back(now);
                }
            }
        }
    }
    return profile;
}

std::vector<float> AttentionMiner::picture(int layer, int head) const {
    const std::size_t map = slot(layer, head, 0) / static_cast<std::size_t>(steps_);
    std::vector<float> picture(pictures_.begin() + static_cast<std::ptrdiff_t>(map * kCells),
                               pictures_.begin() + static_cast<std::ptrdiff_t>((map + 1) * kCells));
    for (std::size_t row = 0; row < kPicture; ++row) {
        const auto queries =
            static_cast<float>(std::max<std::int64_t>(picture_rows_[map * kPicture + row], 1));
        for (std::size_t column = 0; column < kPicture; ++column) picture[row * kPicture + column] /= queries;
    }
    return picture;
}

std::vector<float> AttentionMiner::mask_picture(std::string_view type) const {
    if (masks_.empty()) throw InvalidArgument("[mine] nothing was observed");
    const Mask& seen = mask(index_of(type), 0);
    const auto tokens = static_cast<std::int64_t>(seen.key_block.size());
    const std::vector<std::int64_t> places = spread_sample(tokens, 16 * kPicture);
    std::vector<float> picture(kCells, 0.0F);
    std::vector<float> pairs(kCells, 0.0F);
    for (const std::int64_t query : places) {
        const auto* row = seen.grid.data() + seen.query_block[static_cast<std::size_t>(query)] * seen.blocks;
        for (const std::int64_t key : places) {
            const std::size_t cell = cell_of(query, tokens) * kPicture + cell_of(key, tokens);
            pairs[cell] += 1.0F;
            picture[cell] += row[seen.key_block[static_cast<std::size_t>(key)]] != 0 ? 1.0F : 0.0F;
        }
    }
    for (std::size_t cell = 0; cell < kCells; ++cell) picture[cell] /= std::max(pairs[cell], 1.0F);
    return picture;
}

}  // namespace aerogel
