// The calibration part of `aerogel quantize`: its options and running it.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "cli/sampling_flags.h"
#include "model/calibrate.h"
#include "quant/calibration.h"

namespace aerogel::cli {

struct CalibrationFlags {
    std::string captions;
    std::size_t max_captions = 0;
    std::string prompt_embeds;
    std::string inputs;
    std::vector<std::string> files;
    std::string save;
    std::string timesteps;
    SamplingFlags sampling;
    CalibrateOptions options;
};

/// What a quantization measures before it can begin.
struct Calibrates {
    std::string_view scheme;  ///< the name of the first one
    bool ranges = false;      ///< of inputs of layers, or of q, k and v
    bool inputs = false;      ///< rows of inputs

    bool anything() const { return ranges || inputs; }
};

/// How the activation ranges came about.
struct CalibrationRun {
    CalibrationStats stats;
    std::string source;
    std::size_t captions = 0;  ///< 0 when there were none
};

void add_calibration_options(CLI::App& command, CalibrationFlags& flags);

/// InvalidArgument where a flag about calibration says nothing, or two contradict each other.
void check_calibration_flags(const CLI::App& command, const CalibrationFlags& flags, const Calibrates& what);

/// Reads the statistics given, or runs the model of that folder; saves them when that is wanted.
CalibrationRun run_calibration(const std::string& model, const CalibrationFlags& flags);

/// "0-9,12,20-": first and last steps of ranges, the end open when left out (then `steps` says).
/// InvalidArgument.
std::vector<int> parse_timesteps(const std::string& text, int steps);

}  // namespace aerogel::cli
