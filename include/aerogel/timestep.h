// Which sampling step runs, and what timestep-aware layers do in each step: the words of MindIE SD 3.1.0.
// layer: model
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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

/// What quantized attention computes in a step.
struct AttentionStrategy {
    std::string name;         ///< "MXFP4", "FP8" or "FLOAT"
    bool registered = false;  ///< false: a default, which counts for MXFP4 attention only
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
    /// A JSON object with default_strategy, w4a4_default_strategy, fa_default_strategy and "register", a list
    /// of {"step_range": 3 | [0, 2] | {"start": 0, "stop": 8}, "strategy": ..., "target": ...}; all but
    /// step_range and strategy may be left out. IoError, InvalidArgument (file, key, expected, got).
    static TimestepPolicyConfig read(const std::filesystem::path& path);

    /// `register` of Python, a word that C++ reserves: the strategy of these steps; later calls win. Target
    /// "linear" goes by the strategy's name. InvalidArgument for negative steps and other words.
    TimestepPolicyConfig& register_steps(const std::vector<int>& step_range, std::string_view strategy,
                                         std::string_view target = "w4a4_linear");
    /// The target's default for nullopt and for steps that nothing covers.
    const std::string& get_strategy(std::optional<int> step,
                                    std::string_view target = "w8a8_static_linear") const;

    /// What Linears need to know about a step; timestep_index < 0 = unknown.
    StepContext context(int timestep_index) const;
    AttentionStrategy attention(int timestep_index) const;

  private:
    std::map<std::string, std::string, std::less<>> defaults_;
    std::map<std::pair<std::string, int>, std::string> registered_;
};

}  // namespace aerogel
