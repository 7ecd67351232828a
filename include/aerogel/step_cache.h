// Sampling steps that leave blocks out: what the blocks of a transformer would add is taken from an
// earlier step.
// layer: model
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "aerogel/context.h"
#include "aerogel/tensor.h"

namespace aerogel {

enum class StepCacheKind : std::uint8_t {
    none,
    /// What the blocks behind the first one added is added again while the first one adds almost the same
    /// (ParaAttention's First Block Cache; FirstBlockCacheConfig of diffusers).
    first_block,
    /// The same decision, but what they added goes on along a line through the last two full passes:
    /// TaylorSeer of order 1 (Liu et al., From reusing to forecasting, arXiv 2503.06923), as Cache-DiT joins
    /// both.
    taylor,
};
/// "none", "first-block" or "taylor"; InvalidArgument otherwise.
StepCacheKind step_cache_kind_from(std::string_view name);
std::string_view to_string(StepCacheKind kind);

struct StepCacheConfig {
    StepCacheKind kind = StepCacheKind::none;
    /// >= 0: blocks are left out while the mean absolute change of what the first block adds is at most this
    /// share of its mean absolute value. 0 leaves out nothing.
    double threshold = 0.05;

    bool active() const { return kind != StepCacheKind::none && threshold > 0.0; }
};

/// What the passes of one sequence (same prompt, same sizes) leave for the next. A family calls it around its
/// blocks; hidden is its residual stream, f32 [rows, dim].
class StepCache {
  public:
    /// Rows that decide: `count` from `first` on of each of `items` times `each` rows.
    struct Rows {
        std::int64_t items = 1, each = 0, first = 0, count = 0;
    };

    /// InvalidArgument for a threshold that is negative or not a number.
    explicit StepCache(const StepCacheConfig& config = {});

    const StepCacheConfig& config() const { return config_; }
    /// Whether the last pass left blocks out.
    bool skipped() const { return skipped_; }
    /// The change that decided in the last pass; nothing in the first one.
    std::optional<double> change() const { return change_; }

    void before_blocks(const Tensor& hidden, const Context& context);
    /// Behind the first block. True: the others are to be left out, and hidden is what they would have made.
    bool after_first_block(Tensor& hidden, const Rows& rows, const Context& context);
    void after_blocks(const Tensor& hidden, const Context& context);

  private:
    StepCacheConfig config_;
    std::int64_t pass_ = -1, full_pass_ = -1;
    bool skipped_ = false;
    std::optional<double> change_;
    Tensor start_;   // hidden in front of the first block, then what that added
    Tensor first_;   // what the first block added in the last full pass
    Tensor behind_;  // hidden behind the first block of a full pass
    Tensor others_;  // what the others added in the last full pass
    Tensor slope_;   // change of that per pass
};

}  // namespace aerogel
