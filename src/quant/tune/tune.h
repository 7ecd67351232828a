// Which scheme for which module: the search behind `aerogel tune` and aerogel.tune(). It knows names, costs
// and measured errors; a front measures, by running its model with a mixture of choices.
//
// As in HAWQ-V3 (arXiv 2011.10680) and ViDiT-Q (arXiv 2406.02540) each module is measured alone with each of
// its choices, and a Lagrangian search picks the cheapest mixture whose squared errors add up to the budget.
// As errors do not quite add up, the mixture itself is then measured and the search corrected, until what was
// measured keeps the budget.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace aerogel {

/// One way to run a module.
struct TuneChoice {
    std::string name;    ///< "W8A8_DYNAMIC"
    double cost = 0.0;   ///< what is kept small: bytes, or seconds
    double bytes = 0.0;  ///< of its weights in the files
};

struct TuneModule {
    std::string name;
    std::vector<TuneChoice> choices;  ///< the first one: as the module is
};

/// Exactly one of max_error and max_cost.
struct TuneProblem {
    std::vector<TuneModule> modules;
    double fixed_cost = 0.0;  ///< of all that is not tuned
    double fixed_bytes = 0.0;
    std::optional<double> max_error;  ///< in every group of steps
    std::optional<double> max_cost;   ///< fixed_cost included
};

/// The index of the choice of each module.
using Mixture = std::vector<int>;

/// |v - v of the unchanged model| / |v of the unchanged model| of the model's output v, for each group of
/// steps.
using StepErrors = std::vector<double>;

struct MeasuredMixture {
    std::string name;  ///< of a uniform one the name of its choice, else "mixed"
    Mixture choices;
    double cost = 0.0;
    double bytes = 0.0;
    double predicted = 0.0;  ///< error() that the modules alone let expect
    StepErrors errors;

    double error() const;  ///< of the worst group of steps
};

struct TuneResult {
    MeasuredMixture best;
    std::vector<MeasuredMixture> uniform;        ///< every module that has it takes the choice of one name
    std::vector<MeasuredMixture> tried;          ///< mixtures in the order in which they were measured
    std::vector<std::vector<StepErrors>> alone;  ///< of each module, of each of its choices
    /// No mixture whose errors add up to that of `best` costs less than this: how near the search came.
    double least_cost = 0.0;
    /// Predicted {cost, error} from the cheapest mixture to the unchanged model.
    std::vector<std::pair<double, double>> frontier;
};

struct TuneCalls {
    /// The errors of a mixture; the same mixture gives the same errors.
    std::function<StepErrors(const Mixture&)> measure;
    /// Called before each measurement with how many are done and how many there will be at most.
    std::function<void(int done, int total, const std::string& what)> progress = {};
};

/// What tune() finds wrong before it measures. InvalidArgument when there is nothing to choose, a budget is
/// not positive, no mixture is as cheap as max_cost, or the unchanged model is.
void check_tune_problem(const TuneProblem& problem);

/// The cheapest mixture found within max_error, or the one of the least error within max_cost. What it
/// returns was measured and keeps the budget, and no uniform mixture that keeps it is better. InvalidArgument
/// as check_tune_problem(), and when a measured error is no number or none but the unchanged model errs as
/// little as max_error.
TuneResult tune(const TuneProblem& problem, const TuneCalls& calls);

/// The search without measuring: the cheapest mixture whose squared errors (`alone`: of modules, choices and
/// groups of steps) add up to at most `budget` squared in every group, and a bound below which no mixture
/// costs.
struct Cheapest {
    Mixture choices;
    double cost = 0.0;
    double bound = 0.0;
};
Cheapest cheapest_within(const TuneProblem& problem, const std::vector<std::vector<StepErrors>>& alone,
                         double budget);

}  // namespace aerogel
