// Offline pattern mining: attention maps of a running model, looked at through a sample of queries, are
// scored against the three static masks of RainFusion 1 at several sparsities, per layer, head and step.
// Memory is bounded by layers x heads x (steps + the picture of a map); no attention map is ever held.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "aerogel/sparse_profile.h"
#include "sparse/head_rows.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

/// The candidates, in the order in which equals win: the patterns of rf_v1.
std::vector<std::string_view> mined_types();
/// Sparsities of the recall curves, besides the one that is asked for.
inline constexpr std::array<double, 6> kCurveSparsities = {0.3, 0.5, 0.7, 0.8, 0.9, 0.95};

struct MiningOptions {
    SparsePattern pattern = {.type = "rf_v1", .sparsity = 0.8};  ///< the profile's
    bool by_step = false;                                        ///< a head's type may change between steps
};

/// Kept share and computed share of one mask.
struct MaskScore {
    double recall = 0.0;
    double density = 0.0;
};

class AttentionMiner {
  public:
    static constexpr int kPicture = 64;  ///< side of a map's picture

    AttentionMiner(const MiningOptions& options, int layers, int heads, int steps);

    /// Looks at one self-attention: q, k f32 or bf16 [batch, tokens, heads, head_dim], video tokens only, all
    /// calls of one latent shape. InvalidArgument when sizes or indices do not fit.
    void observe(int layer, int step, const TensorView& q, const TensorView& k, const LatentShape& latent);

    /// Head types by best mean recall. InvalidArgument when nothing was observed in some layer and step.
    SparseProfile profile() const;
    /// Mean over all steps of a candidate at the wanted sparsity, then at each of kCurveSparsities.
    std::vector<MaskScore> curve(int layer, int head, std::string_view type) const;
    /// Mean recall of a candidate at the wanted sparsity at one step.
    double recall(int layer, int head, int step, std::string_view type) const;
    /// [kPicture, kPicture] mean attention mass of a head in t h w order, each row summing to 1 (0 where no
    /// query fell).
    std::vector<float> picture(int layer, int head) const;
    /// [kPicture, kPicture] share of each cell that a candidate's mask keeps at the wanted sparsity.
    std::vector<float> mask_picture(std::string_view type) const;

    const MiningOptions& options() const { return options_; }
    int layers() const { return layers_; }
    int heads() const { return heads_; }
    int steps() const { return steps_; }
    const LatentShape& latent() const { return latent_; }

  private:
    // One mask as the blocks of tokens: kept when grid[query_block[q] * blocks + key_block[k]].
    struct Mask {
        std::vector<std::int32_t> query_block;  // by place in t h w order
        std::vector<std::int32_t> key_block;
        BlockGrid grid;
        std::int64_t blocks = 0;
        double density = 0.0;
    };
    static Mask mask_of(const HeadPattern& pattern, const SparseGeometry& geometry);
    void prepare(const LatentShape& latent);
    void observe_head(const HeadRows& q, const HeadRows& k, std::int64_t map, std::size_t slot,
                      std::size_t picture);
    const Mask& mask(std::size_t candidate, std::size_t sparsity) const;
    std::size_t slot(int layer, int head, int step) const;

    MiningOptions options_;
    int layers_, heads_, steps_;
    LatentShape latent_;
    std::vector<std::int64_t> queries_, keys_;  // sampled places
    std::vector<Mask> masks_;                   // [candidate][sparsity], the wanted sparsity first
    std::vector<double> recalls_;               // [layer][head][step][candidate][sparsity], sums
    std::vector<std::int64_t> observed_;        // [layer][head][step]: sampled queries
    std::vector<float> pictures_;               // [layer][head][kPicture][kPicture], sums
    std::vector<std::int64_t> picture_rows_;    // [layer][head][kPicture]: sampled queries
};

}  // namespace aerogel
