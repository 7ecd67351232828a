// The Lagrangian search: for prices of error in each group of steps every module takes its best choice by
// itself. The least sum of costs and priced errors is a bound from below; the mixtures on the way that keep
// the budget are bounds from above. (Fisher, "The Lagrangian relaxation method for solving integer
// programming problems", Management Science 1981.)
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "quant/tune/tune.h"

namespace aerogel {
namespace {

using Alone = std::vector<std::vector<StepErrors>>;

class LagrangianSearch {
  public:
    LagrangianSearch(const TuneProblem& problem, const Alone& alone, double budget)
        : problem_(problem), groups_(alone.front().front().size()), square_(budget * budget) {
        for (const auto& choices : alone) {
            shares_.emplace_back();
            for (const StepErrors& errors : choices) {
                shares_.back().emplace_back();
                for (const double error : errors) shares_.back().back().push_back(error * error / square_);
            }
        }
        result_.choices.assign(problem.modules.size(), 0);
        result_.cost = cost_of(result_.choices);
        result_.bound = -std::numeric_limits<double>::infinity();
    }

    Cheapest run() {
        constexpr int kRounds = 40;
        std::vector<double> weights(groups_, 1.0 / static_cast<double>(groups_));
        for (int round = 0; round < (groups_ == 1 ? 1 : kRounds); ++round) raise_price(weights);
        trim();
        result_.bound = std::min(result_.bound, result_.cost);
        return result_;
    }

  private:
    double share(std::size_t module, std::size_t choice, const std::vector<double>& weights) const {
        const StepErrors& shares = shares_[module][choice];
        return std::inner_product(shares.begin(), shares.end(), weights.begin(), 0.0);
    }

    double cost_of(const Mixture& mixture) const {
        double cost = problem_.fixed_cost;
        for (std::size_t m = 0; m < mixture.size(); ++m)
            cost += problem_.modules[m].choices[static_cast<std::size_t>(mixture[m])].cost;
        return cost;
    }

    // Of the budget, in each group: 1 is all of it.
    std::vector<double> used(const Mixture& mixture) const {
        std::vector<double> sum(groups_, 0.0);
        for (std::size_t m = 0; m < mixture.size(); ++m) {
            const StepErrors& shares = shares_[m][static_cast<std::size_t>(mixture[m])];
            for (std::size_t g = 0; g < groups_; ++g) sum[g] += shares[g];
        }
        return sum;
    }

    static bool within(const std::vector<double>& used) {
        return *std::max_element(used.begin(), used.end()) <= 1.0 + 1e-12;
    }

    // What every module takes by itself at this price of the whole budget.
    Mixture at_price(double price, const std::vector<double>& weights) {
        Mixture mixture;
        double bound = problem_.fixed_cost - price;
        for (std::size_t m = 0; m < shares_.size(); ++m) {
            const auto& choices = problem_.modules[m].choices;
            std::size_t best = 0;
            double least = std::numeric_limits<double>::infinity(), error = least;
            for (std::size_t c = 0; c < choices.size(); ++c) {
                const double own = share(m, c, weights), priced = choices[c].cost + price * own;
                if (std::pair(priced, own) < std::pair(least, error)) {
                    least = priced;
                    error = own;
                    best = c;
                }
            }
            mixture.push_back(static_cast<int>(best));
            bound += least;
        }
        result_.bound = std::max(result_.bound, bound);
        return mixture;
    }

    void keep(const Mixture& mixture) {
        const double cost = cost_of(mixture);
        if (cost >= result_.cost) return;
        result_.cost = cost;
        result_.choices = mixture;
    }

    // Bisects the price; then the groups of steps that use more of the budget get more weight.
    void raise_price(std::vector<double>& weights) {
        constexpr int kSteps = 60;
        const double all = std::max(cost_of(result_.choices), 1e-300);
        double low = std::log(1e-9 * all), high = std::log(1e9 * all);
        std::vector<double> last = used(at_price(0.0, weights));
        if (within(last)) {
            keep(at_price(0.0, weights));
            return;
        }
        for (int step = 0; step < kSteps; ++step) {
            const double middle = 0.5 * (low + high);
            const Mixture mixture = at_price(std::exp(middle), weights);
            last = used(mixture);
            if (within(last)) {
                keep(mixture);
                high = middle;
            } else {
                low = middle;
            }
        }
        double sum = 0.0;
        const double most = std::max(*std::max_element(last.begin(), last.end()), 1e-300);
        for (std::size_t g = 0; g < groups_; ++g) sum += weights[g] *= std::exp(0.5 * last[g] / most);
        for (double& weight : weights) weight /= sum;
    }

    // What the prices left over: while a module may take a cheaper choice within the budget, the one that
    // saves the most does.
    void trim() {
        while (true) {
            const std::vector<double> sum = used(result_.choices);
            double saved = 0.0;
            std::size_t module = 0;
            int choice = 0;
            for (std::size_t m = 0; m < shares_.size(); ++m) {
                const auto now = static_cast<std::size_t>(result_.choices[m]);
                for (std::size_t c = 0; c < shares_[m].size(); ++c) {
                    const double saving =
                        problem_.modules[m].choices[now].cost - problem_.modules[m].choices[c].cost;
                    if (saving <= saved) continue;
                    std::vector<double> then = sum;
                    for (std::size_t g = 0; g < groups_; ++g)
                        then[g] += shares_[m][c][g] - shares_[m][now][g];
                    if (!within(then)) continue;
                    saved = saving;
                    module = m;
                    choice = static_cast<int>(c);
                }
            }
            if (saved <= 0.0) return;
            result_.choices[module] = choice;
            result_.cost = cost_of(result_.choices);
        }
    }

    const TuneProblem& problem_;
    std::size_t groups_;
    double square_;
    Alone shares_;  // of the budget's square
    Cheapest result_;
};

}  // namespace

Cheapest cheapest_within(const TuneProblem& problem, const Alone& alone, double budget) {
    return LagrangianSearch(problem, alone, budget).run();
}

}  // namespace aerogel
