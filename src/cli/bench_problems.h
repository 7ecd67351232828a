// What `aerogel bench` measures: one case per operation and problem, each with its error.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/tensor.h"
#include "kernels/peak.h"

namespace aerogel::cli {

/// A case ready to run; made only when it is its turn, because its arrays are large.
struct BenchCase {
    std::function<void()> run;  ///< one complete call: quantizing activations, masks and epilogue included
    std::function<double()>
        error;                ///< relative L2 error of the last run's output to the float result, on samples
    double weight_bytes = 0;  ///< of a linear layer, as stored; 0 elsewhere
    std::function<void()> wait = {};  ///< until the device has done what run() put on it; empty on the CPU
};

struct BenchProblem {
    std::string name;      ///< "linear/W8A8_DYNAMIC/1024x3072x3072"
    std::string error_of;  ///< what the error is measured against, for people
    PeakKind peak = PeakKind::f32;
    double operations = 0;  ///< of one call; a sparse call counts what it keeps
    std::function<BenchCase()> make;
    std::vector<std::string> models = {};  ///< that have it: "wan2.1-1.3b"

    /// Whether `part` is in the name or in that of a model.
    bool is_meant_by(const std::string& part) const;
};

// The files of tests/problems, which the tests of the kernels share. They are part of the command: an
// installed one has no source tree beside it.
std::string_view linear_problem_file();
std::string_view attention_problem_file();
std::string_view model_problem_file();

/// All problems in the order they are shown: those of the tests' files with speed=, then those of the models.
/// On a GPU layers of models have all rows that the model gives them, and arrays are bf16 but for FLOAT and
/// f32.
std::vector<BenchProblem> bench_problems(Device device = {});

/// Operations per second of the best peak loop of this CPU level, with all threads.
double measured_peak(PeakKind kind);

}  // namespace aerogel::cli
