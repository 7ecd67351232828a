// The part of `aerogel quantize` about attention: which modules, and what their file entries hold.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "aerogel/quantized_attention.h"
#include "quant/calibration.h"
#include "quant/recipe.h"

namespace aerogel::cli {

struct AttentionFlags {
    std::string quant_type;           ///< empty: attention stays float
    std::vector<std::string> layers;  ///< patterns

    /// True when q, k and v must be measured first.
    bool calibrated() const;
};

void add_attention_options(CLI::App& command, AttentionFlags& flags);

/// Attention modules of the Linears of a checkpoint ("x" of "x.to_q" and "x.q") that the flags choose, with
/// rotations by the head size of the config.json beside `weights`, or with measured scales. InvalidArgument,
/// IoError.
std::map<std::string, AttentionQuantization> quantized_attentions(const AttentionFlags& flags,
                                                                  const std::filesystem::path& weights,
                                                                  const std::vector<std::string>& linears,
                                                                  const CalibrationStats* calibration);

/// The same for what a recipe plans; modules without rotation hold none.
std::map<std::string, AttentionQuantization> planned_attentions(
    const std::map<std::string, AttentionPlan>& plan, const std::filesystem::path& weights,
    const CalibrationStats* calibration);

/// True when one of them must be measured first.
bool any_calibrated(const std::map<std::string, AttentionPlan>& plan);

}  // namespace aerogel::cli
