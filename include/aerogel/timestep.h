// Which sampling step runs, and what timestep-aware layers do in each step: the words of MindIE SD 3.1.0.
// layer: quant
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/attention_format.h"
#include "aerogel/linear.h"

namespace aerogel {

/// The current sampling step of one run. A plain value: every run has its own.
class TimestepManager {
  public:
    TimestepManager() = default;
    /// max: number of sampling steps, at least 1. InvalidArgument.
    explicit TimestepManager(int max) { set_timestep_idx_max(max); }

    /// 0-based; nullopt = unknown. InvalidArgument when negative or not below the number of steps.
    void set_timestep_idx(std::optional<int> index);
    std::optional<int> get_timestep_idx() const { return index_; }
    /// At least 1 and above the current step, InvalidArgument otherwise; nullopt = no limit.
    void set_timestep_idx_max(std::optional<int> max);
    std::optional<int> get_timestep_idx_max() const { return max_; }

  private:
    std::optional<int> index_;
    std::optional<int> max_;
};

/// Targets and their strategies (the first is the default):
/// w8a8_static_linear (W8A8_TIMESTEP): dynamic | static
/// w4a4_linear (all schemes with 4-bit weights and activations): W4A4 | W4A8, on the same weights
/// fa (quantized attention): MXFP4 | FP8 | FLOAT
class TimestepPolicyConfig {
  public:
    /// InvalidArgument for other words.
    explicit TimestepPolicyConfig(const std::string& default_strategy = "dynamic",
                                  const std::string& w4a4_default_strategy = "W4A4",
                                  const std::string& fa_default_strategy = "MXFP4");
    /// W8A8_TIMESTEP: dynamic before this step, static from it on. InvalidArgument below 0 and for more steps
    /// than a run may have.
    static TimestepPolicyConfig static_from(int step);
    /// A JSON object with default_strategy, w4a4_default_strategy, fa_default_strategy and "register", a list
    /// of {"step_range": 3 | [0, 2] | {"start": 0, "stop": 8}, "strategy": ..., "target": ...}; all but
    /// step_range and strategy may be left out. IoError, InvalidArgument (file, key, expected, got).
    static TimestepPolicyConfig read(const std::filesystem::path& path);
    /// The policy that to_text() wrote. InvalidArgument.
    static TimestepPolicyConfig from_text(std::string_view text);
    /// "w8a8_static_linear=dynamic;w4a4_linear=W4A4;fa=MXFP4;fa=FP8@0,1": equal policies have equal texts.
    std::string to_text() const;
    bool operator==(const TimestepPolicyConfig& other) const = default;

    /// `register` of Python, a word that C++ reserves: the strategy of these steps; later calls win. Target
    /// "linear" is the one of the Linears that has this strategy. InvalidArgument for negative steps and
    /// other words.
    TimestepPolicyConfig& register_steps(const std::vector<int>& step_range, std::string_view strategy,
                                         std::string_view target = "w4a4_linear");
    /// What steps do that no range covers. InvalidArgument for other words.
    void set_default(std::string_view strategy, std::string_view target);
    /// The target's default for nullopt and for steps that no range covers.
    const std::string& get_strategy(std::optional<int> step,
                                    std::string_view target = "w8a8_static_linear") const;

    /// What Linears need to know about a step; timestep_index < 0 = unknown.
    StepContext context(int timestep_index) const;
    /// What an attention of format `own` computes in a step. MXFP4 takes the strategy as it is.
    /// 8-bit formats never get coarser: they are float in steps registered as FLOAT and stay what
    /// they are in all others, defaults included.
    AttentionFormat attention_format(AttentionFormat own, int timestep_index) const;

  private:
    struct Target {
        std::string fallback;
        std::map<int, std::string> registered;
        bool operator==(const Target& other) const = default;
    };
    const std::string& strategy(std::size_t target, int timestep_index) const;

    std::array<Target, 3> targets_;  // in the order above
};

}  // namespace aerogel
