// `tune` of a native transformer: recorded inputs, and the errors and costs of its modules on them.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "aerogel/pipeline.h"
#include "aerogel/transformer.h"
#include "quant/calibration.h"
#include "quant/export.h"
#include "quant/tune/tune.h"

namespace aerogel {

/// One forward pass to measure on.
struct TuneRecord {
    TransformerInput input;
    int step = 0;  ///< sampling step
};

/// Inputs of the passes that make a video of each caption, spread evenly over captions and steps.
struct TuneCaptions {
    std::vector<std::string> captions;
    SamplingOptions sampling;
    int records = 8;
    std::function<bool(int done, int total)> progress;  ///< of the sampling steps; return false to stop
};
/// InvalidArgument for more records than there are steps of all captions, and for two experts (give the
/// folder of one, and recorded inputs).
std::vector<TuneRecord> tune_records(const Pipeline& pipeline, const TuneCaptions& from);
/// The records of a file (model/recorded_inputs.h), evenly chosen where there are more than `records`.
std::vector<TuneRecord> tune_records(const std::filesystem::path& file, int records);

struct TuneOptions {
    std::vector<std::string> schemes = {"W8A8_DYNAMIC", "W4A8"};  ///< tune_scheme()
    std::vector<std::string> attentions;  ///< types of self-attention without calibration: "INT8_DYNAMIC"
    std::vector<std::string> include;     ///< patterns of Linears; empty: the default ones
    std::vector<std::string> exclude;
    std::optional<double> max_error;
    std::optional<double> max_bytes;
    bool minimize_time = false;          ///< with max_error: seconds of a forward pass, not bytes
    int step_groups = 3;                 ///< of equally many records; the budget holds in each
    std::int64_t sample_rows = 1024;     ///< of each layer's inputs, for algorithms that look at them
    std::filesystem::path measurements;  ///< TuneJournal; empty: none
    std::function<bool(int done, int total, const std::string& what)> progress;  ///< return false to stop
};

struct TunedModel {
    TuneProblem problem;
    TuneResult result;
    LayerPlan layers;  ///< of the best mixture
    std::map<std::string, std::string> attentions;
    CalibrationStats calibration;  ///< inputs of the layers in the records
    bool needs_calibration = false;
    double float_bytes = 0.0;
    std::vector<int> first_steps;  ///< of each group of steps
};

/// What is known before there are records: errors of schemes and patterns, and as check_tune_problem().
void check_tune(Transformer& model, const TuneOptions& options);

/// Leaves the model as it was. Errors as tune() and tune_scheme(); InvalidArgument also for patterns that
/// match nothing and fewer records than groups; Cancelled.
TunedModel tune(Transformer& model, const std::vector<TuneRecord>& records, const TuneOptions& options);

}  // namespace aerogel
