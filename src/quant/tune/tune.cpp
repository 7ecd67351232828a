// Measuring modules alone, uniform mixtures and mixed ones, and correcting the budget of the search.
#include "quant/tune/tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "aerogel/error.h"

namespace aerogel {
namespace {

constexpr int kCorrections = 10;

void check_cost(const TuneProblem& problem, double budget) {
    double least = problem.fixed_cost, unchanged = least;
    for (const TuneModule& module : problem.modules) {
        unchanged += module.choices.front().cost;
        least +=
            std::min_element(module.choices.begin(), module.choices.end(), [](const auto& a, const auto& b) {
                return a.cost < b.cost;
            })->cost;
    }
    if (least > budget) {
        throw InvalidArgument(fmt::format(
            "[tune] no mixture of these schemes is as small as {:.4g} MB; the smallest has {:.4g} MB",
            budget / 1e6, least / 1e6));
    }
    if (unchanged <= budget) {
        throw InvalidArgument(
            fmt::format("[tune] {:.4g} MB hold the unchanged model, which has {:.4g} MB: give less",
                        budget / 1e6, unchanged / 1e6));
    }
}

class Tuning {
  public:
    Tuning(const TuneProblem& problem, const TuneCalls& calls) : problem_(problem), calls_(calls) {}

    TuneResult run() {
        measure_alone();
        measure_uniform();
        correct_predictions();
        if (problem_.max_error) {
            within_error(*problem_.max_error);
        } else {
            within_cost(*problem_.max_cost);
        }
        choose_best();
        draw_frontier();
        return std::move(result_);
    }

  private:
    std::vector<std::string> uniform_names() const {
        std::vector<std::string> names;
        for (const TuneModule& module : problem_.modules) {
            for (std::size_t c = 1; c < module.choices.size(); ++c) {
                if (std::find(names.begin(), names.end(), module.choices[c].name) == names.end())
                    names.push_back(module.choices[c].name);
            }
        }
        return names;
    }

    StepErrors measured(const Mixture& mixture, const std::string& what) {
        if (calls_.progress) calls_.progress(done_, total_, what);
        StepErrors errors = calls_.measure(mixture);
        ++done_;
        for (const double error : errors) {
            if (!std::isfinite(error) || error < 0.0)
                throw InvalidArgument(fmt::format("[tune] the error of {} is {}", what, error));
        }
        if (errors.empty()) throw InvalidArgument("[tune] nothing was measured");
        return errors;
    }

    void measure_alone() {
        std::size_t count = 0;
        for (const TuneModule& module : problem_.modules) count += module.choices.size() - 1;
        total_ = static_cast<int>(count + uniform_names().size()) + (problem_.max_error ? kCorrections : 1);
        const std::size_t modules = problem_.modules.size();
        for (std::size_t m = 0; m < modules; ++m) {
            const auto& choices = problem_.modules[m].choices;
            result_.alone.emplace_back(choices.size());
            for (std::size_t c = 1; c < choices.size(); ++c) {
                Mixture mixture(modules, 0);
                mixture[m] = static_cast<int>(c);
                result_.alone[m][c] = measured(mixture, problem_.modules[m].name + " " + choices[c].name);
                groups_ = result_.alone[m][c].size();
            }
        }
        for (auto& choices : result_.alone) choices.front().assign(groups_, 0.0);
        alone_ = result_.alone;
    }

    MeasuredMixture described(Mixture mixture, std::string name) const {
        MeasuredMixture row;
        row.name = std::move(name);
        row.cost = problem_.fixed_cost;
        row.bytes = problem_.fixed_bytes;
        for (std::size_t m = 0; m < mixture.size(); ++m) {
            const TuneChoice& choice = problem_.modules[m].choices[static_cast<std::size_t>(mixture[m])];
            row.cost += choice.cost;
            row.bytes += choice.bytes;
        }
        row.choices = std::move(mixture);
        row.predicted = predicted(row.choices);
        return row;
    }

    double predicted(const Mixture& mixture) const {
        std::vector<double> squares(groups_, 0.0);
        for (std::size_t m = 0; m < mixture.size(); ++m) {
            const StepErrors& errors = alone_[m][static_cast<std::size_t>(mixture[m])];
            for (std::size_t g = 0; g < groups_; ++g) squares[g] += errors[g] * errors[g];
        }
        return std::sqrt(*std::max_element(squares.begin(), squares.end()));
    }

    void measure_uniform() {
        for (const std::string& name : uniform_names()) {
            Mixture mixture;
            for (const TuneModule& module : problem_.modules) {
                int chosen = 0;
                for (std::size_t c = 1; c < module.choices.size(); ++c)
                    if (module.choices[c].name == name) chosen = static_cast<int>(c);
                mixture.push_back(chosen);
            }
            MeasuredMixture row = described(std::move(mixture), name);
            row.errors = measured(row.choices, "all " + name);
            result_.uniform.push_back(std::move(row));
        }
    }

    // Errors of neighbours may agree and cancel less than independent ones: the sum over a uniform mixture is
    // made what was measured of it.
    void correct_predictions() {
        for (const MeasuredMixture& uniform : result_.uniform) {
            std::vector<double> squares(groups_, 0.0);
            for (std::size_t m = 0; m < uniform.choices.size(); ++m) {
                const StepErrors& errors = result_.alone[m][static_cast<std::size_t>(uniform.choices[m])];
                for (std::size_t g = 0; g < groups_; ++g) squares[g] += errors[g] * errors[g];
            }
            for (std::size_t m = 0; m < uniform.choices.size(); ++m) {
                if (uniform.choices[m] == 0) continue;
                StepErrors& errors = alone_[m][static_cast<std::size_t>(uniform.choices[m])];
                for (std::size_t g = 0; g < groups_; ++g)
                    if (squares[g] > 0.0) errors[g] *= uniform.errors[g] / std::sqrt(squares[g]);
            }
        }
    }

    // Measures a mixture unless that was done; its error.
    double tried(const Mixture& mixture) {
        if (std::all_of(mixture.begin(), mixture.end(), [](int choice) { return choice == 0; })) return 0.0;
        for (const auto* rows : {&result_.tried, &result_.uniform}) {
            for (const MeasuredMixture& row : *rows)
                if (row.choices == mixture) return row.error();
        }
        MeasuredMixture row = described(mixture, "mixed");
        row.errors = measured(row.choices, fmt::format("mixture {}", result_.tried.size() + 1));
        result_.tried.push_back(row);
        return row.error();
    }

    void within_error(double limit) {
        // Of what the search may predict: below `good` mixtures kept the limit, above `bad` they did not.
        double good = 0.0, bad = 0.0, budget = limit;
        for (int i = 0; i < kCorrections; ++i) {
            const double error = tried(cheapest_within(problem_, alone_, budget).choices);
            (error <= limit ? good : bad) = budget;
            if (good > 0.0 && bad > 0.0 && bad / good < 1.01) break;
            const double next = error > 0.0 ? budget * limit / error : 4.0 * budget;
            const double least = good > 0.0 ? good : 0.25 * bad, most = bad > 0.0 ? bad : 4.0 * good;
            // A guess next to an end of what is known would only confirm that end.
            const double margin = 0.1 * (most - least);
            budget = std::clamp(next * 0.998, least + margin, most - margin);
            const bool all =
                good > 0.0 && bad == 0.0 && is_cheapest(cheapest_within(problem_, alone_, good).choices);
            if (all) break;
        }
    }

    bool is_cheapest(const Mixture& mixture) const {
        for (std::size_t m = 0; m < mixture.size(); ++m) {
            const auto& choices = problem_.modules[m].choices;
            const double cost = choices[static_cast<std::size_t>(mixture[m])].cost;
            if (std::any_of(choices.begin(), choices.end(), [&](const auto& c) { return c.cost < cost; }))
                return false;
        }
        return true;
    }

    // The least predicted error whose cheapest mixture is cheap enough.
    void within_cost(double limit) {
        constexpr int kSteps = 50;
        double most = 1e-12;
        for (const auto& choices : alone_)
            for (const StepErrors& errors : choices) most += *std::max_element(errors.begin(), errors.end());
        double low = std::log(1e-6 * most), high = std::log(1.01 * most);
        Mixture best = cheapest_within(problem_, alone_, std::exp(high)).choices;
        for (int step = 0; step < kSteps; ++step) {
            const double middle = 0.5 * (low + high);
            Cheapest found = cheapest_within(problem_, alone_, std::exp(middle));
            if (found.cost <= limit) {
                best = std::move(found.choices);
                high = middle;
            } else {
                low = middle;
            }
        }
        fill_up(best, limit);
        tried(best);
    }

    // What the bound of the cost leaves unused buys less error.
    void fill_up(Mixture& mixture, double limit) const {
        while (true) {
            const double left = limit - described(mixture, "").cost, now = predicted(mixture);
            double gained = 0.0;
            std::size_t module = 0;
            int choice = 0;
            for (std::size_t m = 0; m < mixture.size(); ++m) {
                const auto& choices = problem_.modules[m].choices;
                const int old = mixture[m];
                for (std::size_t c = 0; c < choices.size(); ++c) {
                    if (choices[c].cost - choices[static_cast<std::size_t>(old)].cost > left) continue;
                    Mixture then = mixture;
                    then[m] = static_cast<int>(c);
                    const double gain = now - predicted(then);
                    if (gain <= gained) continue;
                    gained = gain;
                    module = m;
                    choice = static_cast<int>(c);
                }
            }
            if (gained <= 0.0) return;
            mixture[module] = choice;
        }
    }

    bool keeps_budget(const MeasuredMixture& row) const {
        return problem_.max_error ? row.error() <= *problem_.max_error : row.cost <= *problem_.max_cost;
    }

    bool better(const MeasuredMixture& a, const MeasuredMixture& b) const {
        return problem_.max_error ? std::pair(a.cost, a.error()) < std::pair(b.cost, b.error())
                                  : std::pair(a.error(), a.cost) < std::pair(b.error(), b.cost);
    }

    void choose_best() {
        const MeasuredMixture* best = nullptr;
        for (const auto* rows : {&result_.tried, &result_.uniform}) {
            for (const MeasuredMixture& row : *rows)
                if (keeps_budget(row) && (best == nullptr || better(row, *best))) best = &row;
        }
        const MeasuredMixture unchanged = described(Mixture(problem_.modules.size(), 0), "unchanged");
        if (best == nullptr || (problem_.max_error && best->cost >= unchanged.cost)) refuse();
        result_.best = *best;
        result_.best.predicted = predicted(best->choices);
        result_.least_cost =
            cheapest_within(problem_, alone_, std::max(result_.best.predicted, 1e-300)).bound;
    }

    [[noreturn]] void refuse() const {
        if (!problem_.max_error) {
            throw InvalidArgument(
                fmt::format("[tune] no mixture found is as small as {:.4g} MB", *problem_.max_cost / 1e6));
        }
        double least = 0.0;
        std::string where;
        for (std::size_t m = 0; m < alone_.size(); ++m) {
            for (std::size_t c = 1; c < alone_[m].size(); ++c) {
                const StepErrors& errors = result_.alone[m][c];
                const double error = *std::max_element(errors.begin(), errors.end());
                if (!where.empty() && error >= least) continue;
                least = error;
                where = problem_.modules[m].name + " in " + problem_.modules[m].choices[c].name;
            }
        }
        throw InvalidArgument(fmt::format(
            "[tune] no mixture found keeps the error within {:.3g} for less than the unchanged model; "
            "the least that one module alone adds is {:.3g} ({})",
            *problem_.max_error, least, where));
    }

    void draw_frontier() {
        constexpr int kPoints = 40;
        double largest = 1e-12;
        for (const MeasuredMixture& row : result_.uniform) largest = std::max(largest, row.error());
        for (int i = 0; i <= kPoints; ++i) {
            const double budget = largest * std::pow(10.0, -3.0 + 3.2 * i / kPoints);
            const Cheapest found = cheapest_within(problem_, alone_, budget);
            result_.frontier.emplace_back(described(found.choices, "").bytes, predicted(found.choices));
        }
    }

    const TuneProblem& problem_;
    const TuneCalls& calls_;
    TuneResult result_;
    std::vector<std::vector<StepErrors>> alone_;  // corrected
    std::size_t groups_ = 1;
    int done_ = 0, total_ = 0;
};

}  // namespace

double MeasuredMixture::error() const {
    return errors.empty() ? 0.0 : *std::max_element(errors.begin(), errors.end());
}

void check_tune_problem(const TuneProblem& problem) {
    if (problem.max_error.has_value() == problem.max_cost.has_value())
        throw InvalidArgument("[tune] give a largest error or a largest size, one of them");
    const double budget = problem.max_error ? *problem.max_error : *problem.max_cost;
    if (!(budget > 0.0) || !std::isfinite(budget))
        throw InvalidArgument(fmt::format("[tune] the budget must be a positive number, got {}", budget));
    const bool any = std::any_of(problem.modules.begin(), problem.modules.end(),
                                 [](const TuneModule& module) { return module.choices.size() > 1; });
    if (!any) throw InvalidArgument("[tune] no module has anything to choose from");
    if (!problem.max_error) check_cost(problem, *problem.max_cost);
}

TuneResult tune(const TuneProblem& problem, const TuneCalls& calls) {
    check_tune_problem(problem);
    return Tuning(problem, calls).run();
}

}  // namespace aerogel
