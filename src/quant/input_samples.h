// Rows of each Linear's input, drawn evenly from all that it gets: what the algorithms with data look at.
// Memory is bounded by the rows kept per layer, however long the calibration runs.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "aerogel/tensor.h"

namespace aerogel {

/// Inputs of one layer.
struct LayerInputs {
    Tensor rows;             ///< bf16 [rows,k]; undefined: none
    std::vector<int> steps;  ///< the sampling step of each
};

/// Reservoir sampling (Li, "Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n)))", ACM TOMS
/// 1994, algorithm L): after any number of rows each has had the same chance to be kept.
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

}  // namespace aerogel
