// Calibration: the model makes videos of some captions, and the range of every Linear's input is
// collected step by step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "aerogel/pipeline.h"
#include "quant/calibration.h"

namespace aerogel {

/// Fewer captions, frames or pixels make it cheaper; steps, image_first and stagger must be those of the
/// later generation when scales are kept per step.
struct CalibrateOptions {
    std::vector<std::string> captions;
    Tensor prompt_embeds;  ///< f32 [captions, text_len, text_dim] instead of `captions`
    SamplingOptions sampling;
    /// Steps whose inputs are measured, in any order; empty: all. Later ones are not even run.
    std::vector<int> timesteps;
    std::int64_t sample_rows = 0;  ///< rows of input kept per layer, for algorithms that look at inputs
    bool attention = false;        ///< measure q, k and v too
    /// Called after each sampling step; return false to stop (calibrate() then throws Cancelled).
    std::function<bool(int done, int total)> progress;
};

/// InvalidArgument when there is nothing to calibrate with, or as Pipeline::generate.
CalibrationStats calibrate(const Pipeline& pipeline, const CalibrateOptions& options);

/// Inputs of the transformer recorded elsewhere, see RecordedInputFile.
struct RecordedInputs {
    std::filesystem::path file;
    std::vector<int> timesteps;  ///< as in CalibrateOptions
    std::int64_t sample_rows = 0;
    std::function<bool(int done, int total)> progress;
};

/// IoError; InvalidArgument naming file and tensor when a tensor is missing or does not fit the model.
CalibrationStats calibrate(const Transformer& model, const RecordedInputs& inputs);

/// Captions of a file, one per line; empty lines and lines with # in front are skipped. IoError,
/// InvalidArgument when there is none.
std::vector<std::string> read_captions(const std::filesystem::path& path);

/// calibration_captions.txt of the model's folder, or a few captions of the vocabulary of the example model.
std::vector<std::string> default_captions(const std::filesystem::path& model_folder);

}  // namespace aerogel
