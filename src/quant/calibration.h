// What calibration measures: the range of every Linear's input, forward by forward and step by step, and rows
// of it. Independent of any model; src/model/calibrate.h fills it by running one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "aerogel/safetensors.h"
#include "aerogel/tensor.h"
#include "quant/algorithms/minmax.h"
#include "quant/attention.h"

namespace aerogel {

/// Inputs of one layer.
struct LayerInputs {
    Tensor rows;             ///< bf16 [rows,k]; undefined: none
    std::vector<int> steps;  ///< the sampling step of each
};

/// Rows of each Linear's input, drawn evenly from all that it gets: what the algorithms with data look at.
/// Memory is bounded by the rows kept per layer, however long the calibration runs. Reservoir sampling (Li,
/// "Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n)))", ACM TOMS 1994, algorithm L): after
/// any number of rows each has had the same chance to be kept.
class InputSamples {
  public:
    /// rows: kept per layer; 0 = keep nothing.
    explicit InputSamples(std::int64_t rows = 0) : capacity_(rows) {}

    /// x f32|bf16, rows of the last axis: contiguous, or a matrix with a row stride.
    void observe(const std::string& layer, int step, const TensorView& x);
    bool contains(const std::string& layer) const { return reservoirs_.contains(layer); }
    /// InvalidArgument when the layer has none.
    LayerInputs of(const std::string& layer) const;

    /// Adds the rows that another run kept, behind those of this one. InvalidArgument when a layer has other
    /// columns there.
    void merge(const InputSamples& other);

    /// "<layer>.inputs" BF16 [rows,k] and "<layer>.input_steps" I32 [rows] among the tensors of a file.
    void add_to(std::map<std::string, Tensor>& tensors) const;
    /// Takes the inputs of a layer out of such a file of so many steps; rows are copied. InvalidArgument when
    /// they do not fit each other, a step is not one of those, or a value is not finite.
    void restore(const std::string& layer, const Tensor& rows, const Tensor& steps, int step_count);

  private:
    struct Reservoir {
        Tensor rows;  // [capacity, k]
        std::vector<int> steps;
        std::mt19937_64 random{0};
        double weight = 0.0;
        std::int64_t seen = 0;
        std::int64_t next = 0;  // index of the next row to be kept once the reservoir is full
    };
    void skip(Reservoir& reservoir) const;

    std::int64_t capacity_ = 0;
    std::map<std::string, Reservoir> reservoirs_;
};

/// Sums over forwards of the smallest and the largest input value, per layer and sampling step.
class CalibrationStats {
  public:
    CalibrationStats() = default;
    /// steps >= 1; sample_rows >= 0: rows of input kept per layer. InvalidArgument otherwise.
    explicit CalibrationStats(int steps, std::int64_t sample_rows = 0);

    int steps() const { return steps_; }
    /// One forward of `layer` in `step` (0 .. steps-1) with input x f32|bf16 (any shape, not empty).
    /// InvalidArgument when x is not finite or the step is out of range.
    void observe(const std::string& layer, int step, const TensorView& x);
    bool contains(const std::string& layer) const { return layers_.contains(layer); }
    std::vector<std::string> layer_names() const;

    /// Mean over all forwards of the per-forward minimum and maximum (a running mean, not the extremes).
    /// InvalidArgument when the layer never ran.
    InputRange range(const std::string& layer) const;
    /// Entry t: the same mean over the forwards of all steps >= t, as a calibration that visits the steps
    /// from last to first and never forgets sees them. Steps after the layer's last one take its mean.
    std::vector<InputRange> ranges_by_step(const std::string& layer) const;

    /// Forwards of a layer in a step; 0 when it never ran.
    std::int64_t forwards(const std::string& layer, int step) const;
    /// The same of every step; InvalidArgument when it never ran.
    const std::vector<std::int64_t>& forwards(const std::string& layer) const;
    /// Adds what another run measured, of other inputs or other layers. InvalidArgument when it has another
    /// number of steps.
    void merge(const CalibrationStats& other);

    /// True when a file holds statistics and nothing else.
    static bool is_statistics(const SafetensorsFile& file);
    /// The sampled inputs of a layer. InvalidArgument when none were kept.
    LayerInputs inputs(const std::string& layer) const { return samples_.of(layer); }

    /// Ranges of q, k and v; not kept in files.
    AttentionRanges& attention() { return attention_; }
    const AttentionRanges& attention() const { return attention_; }

    /// As safetensors: "<layer>.min_sum" and ".max_sum" F64 [steps], ".forwards" I64 [steps], and the sampled
    /// inputs.
    void save(const std::filesystem::path& path) const;
    /// IoError / InvalidArgument (file, tensor, expected, got).
    static CalibrationStats load(const std::filesystem::path& path);

  private:
    struct Sums {
        std::vector<double> min;
        std::vector<double> max;
        std::vector<std::int64_t> forwards;
    };
    const Sums& sums(const std::string& layer) const;

    int steps_ = 0;
    std::map<std::string, Sums> layers_;
    InputSamples samples_;
    AttentionRanges attention_;
};

}  // namespace aerogel
