// The search of tune(): against all mixtures of small problems, and with a model whose errors do not add up.
#include "quant/tune/tune.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <random>

#include <unistd.h>

#include "aerogel/cancellation.h"
#include "aerogel/error.h"
#include "core/atomic_file.h"
#include "quant/recipe.h"
#include "quant/tune/choices.h"
#include "quant/tune/journal.h"

namespace aerogel {
namespace {

// Modules with a float, an eight-bit and a four-bit choice, and errors of each alone in groups of steps.
struct Toy {
    TuneProblem problem;
    std::vector<std::vector<StepErrors>> alone;

    Toy(std::size_t modules, std::size_t groups, unsigned seed) {
        std::mt19937 random(seed);
        std::uniform_real_distribution<double> uniform(0.2, 1.0);
        problem.fixed_cost = problem.fixed_bytes = 3.0;
        for (std::size_t m = 0; m < modules; ++m) {
            const double size = 10.0 * uniform(random);
            TuneModule module{
                "layer" + std::to_string(m),
                {{"FLOAT", size, size}, {"W8", size / 2, size / 2}, {"W4", size / 4, size / 4}}};
            const double hurt = std::pow(uniform(random), 3.0);
            alone.push_back({StepErrors(groups, 0.0), {}, {}});
            for (std::size_t g = 0; g < groups; ++g) {
                const double eight = 0.01 * hurt * uniform(random);
                alone.back()[1].push_back(eight);
                alone.back()[2].push_back(eight * 12.0 * uniform(random));
            }
            problem.modules.push_back(std::move(module));
        }
    }

    double error(const Mixture& mixture) const {
        std::vector<double> squares(alone.front().front().size(), 0.0);
        for (std::size_t m = 0; m < mixture.size(); ++m)
            for (std::size_t g = 0; g < squares.size(); ++g)
                squares[g] += std::pow(alone[m][static_cast<std::size_t>(mixture[m])][g], 2);
        return std::sqrt(*std::max_element(squares.begin(), squares.end()));
    }

    double cost(const Mixture& mixture) const {
        double cost = problem.fixed_cost;
        for (std::size_t m = 0; m < mixture.size(); ++m)
            cost += problem.modules[m].choices[static_cast<std::size_t>(mixture[m])].cost;
        return cost;
    }

    // Calls f with every mixture.
    template <typename F>
    void each_mixture(F&& f) const {
        Mixture mixture(problem.modules.size(), 0);
        while (true) {
            f(mixture);
            std::size_t m = 0;
            while (m < mixture.size() && ++mixture[m] == 3) mixture[m++] = 0;
            if (m == mixture.size()) return;
        }
    }
};

TEST(Tune, SearchIsNearTheBestOfAllMixtures) {
    double excess = 0.0;
    constexpr int kProblems = 24;
    for (unsigned seed = 0; seed < kProblems; ++seed) {
        const Toy toy(7, 1 + seed % 3, seed);
        const double budget = toy.error(Mixture(7, 2)) * (0.1 + 0.03 * seed);
        double least = std::numeric_limits<double>::max();
        toy.each_mixture([&](const Mixture& mixture) {
            if (toy.error(mixture) <= budget) least = std::min(least, toy.cost(mixture));
        });
        const Cheapest found = cheapest_within(toy.problem, toy.alone, budget);
        EXPECT_LE(toy.error(found.choices), budget * (1 + 1e-9));
        EXPECT_DOUBLE_EQ(found.cost, toy.cost(found.choices));
        EXPECT_GE(found.cost, least * (1 - 1e-12));
        EXPECT_LE(found.bound, least * (1 + 1e-12));
        excess += found.cost / least - 1.0;
    }
    EXPECT_LT(excess / kProblems, 0.03);
}

// What a result must be, measured anew: the checks below break results on purpose and see them fail.
bool is_sound(const TuneResult& result, const TuneProblem& problem,
              const std::function<StepErrors(const Mixture&)>& measure) {
    const StepErrors errors = measure(result.best.choices);
    const double error = *std::max_element(errors.begin(), errors.end());
    if (error != result.best.error()) return false;
    if (problem.max_error ? error > *problem.max_error : result.best.cost > *problem.max_cost) return false;
    return std::none_of(result.uniform.begin(), result.uniform.end(), [&](const MeasuredMixture& uniform) {
        return uniform.cost <= result.best.cost && uniform.error() < error;
    });
}

// Errors of a model whose modules make each other's errors worse, more so in four bits.
StepErrors coupled(const Toy& toy, const Mixture& mixture) {
    StepErrors errors;
    for (std::size_t g = 0; g < toy.alone.front().front().size(); ++g) {
        double squares = 0.0, sum = 0.0;
        for (std::size_t m = 0; m < mixture.size(); ++m) {
            const double error = toy.alone[m][static_cast<std::size_t>(mixture[m])][g];
            squares += error * error;
            if (mixture[m] == 2) sum += error;
        }
        errors.push_back(std::sqrt(squares + 0.3 * sum * sum));
    }
    return errors;
}

TEST(Tune, KeepsTheErrorThatIsMeasured) {
    for (unsigned seed = 0; seed < 12; ++seed) {
        Toy toy(20, 3, 100 + seed);
        int calls = 0;
        const auto measure = [&](const Mixture& mixture) { return ++calls, coupled(toy, mixture); };
        const StepErrors all = coupled(toy, Mixture(20, 2));
        toy.problem.max_error = *std::max_element(all.begin(), all.end()) * (0.15 + 0.06 * seed);
        TuneResult result = tune(toy.problem, {measure});
        EXPECT_LE(calls, 40 + 2 + 10);
        EXPECT_TRUE(is_sound(result, toy.problem, measure));
        EXPECT_GT(result.best.error(), 0.75 * *toy.problem.max_error) << "the budget is not used";

        // Broken on purpose: everything in four bits, with the errors that it has, and with those of the
        // result.
        TuneResult broken = result;
        broken.best.choices.assign(20, 2);
        EXPECT_FALSE(is_sound(broken, toy.problem, measure));
        broken.best.errors = measure(broken.best.choices);
        EXPECT_FALSE(is_sound(broken, toy.problem, measure));
    }
}

TEST(Tune, KeepsTheSizeAndBeatsUniformMixtures) {
    for (unsigned seed = 0; seed < 12; ++seed) {
        Toy toy(20, 3, 200 + seed);
        const auto measure = [&](const Mixture& mixture) { return coupled(toy, mixture); };
        const double least = toy.cost(Mixture(20, 2)), most = toy.cost(Mixture(20, 0));
        toy.problem.max_cost = least + (most - least) * (0.05 + 0.07 * seed);
        const TuneResult result = tune(toy.problem, {measure});
        EXPECT_TRUE(is_sound(result, toy.problem, measure));
        TuneResult broken = result;
        broken.best.choices.assign(20, 0);
        broken.best.errors = measure(broken.best.choices);
        broken.best.cost = most;
        EXPECT_FALSE(is_sound(broken, toy.problem, measure));
    }
}

std::string refusal(const TuneProblem& problem, const std::function<StepErrors(const Mixture&)>& measure) {
    try {
        tune(problem, {measure});
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "";
}

TEST(Tune, RefusesWhatCannotBe) {
    Toy toy(4, 2, 1);
    const auto measure = [&](const Mixture& mixture) { return coupled(toy, mixture); };
    EXPECT_NE(refusal(toy.problem, measure).find("one of them"), std::string::npos);
    toy.problem.max_error = 1e-9;
    EXPECT_NE(refusal(toy.problem, measure).find("keeps the error within 1e-09"), std::string::npos);
    toy.problem.max_error = 0.5;
    EXPECT_NE(refusal(toy.problem, [](const Mixture&) { return StepErrors{std::nan("")}; }).find("is nan"),
              std::string::npos);
    toy.problem.max_error.reset();
    toy.problem.max_cost = 1.0;
    EXPECT_NE(refusal(toy.problem, measure).find("as small as"), std::string::npos);
    toy.problem.max_cost = toy.cost(Mixture(4, 0));
    EXPECT_NE(refusal(toy.problem, measure).find("hold the unchanged model"), std::string::npos);
    toy.problem.modules.clear();
    EXPECT_NE(refusal(toy.problem, measure).find("anything to choose"), std::string::npos);
}

TEST(Tune, JournalContinuesAndTellsOtherModelsApart) {
    Toy toy(5, 2, 7);
    toy.problem.max_error = 0.02;
    const auto path = std::filesystem::temp_directory_path() / ("tune_journal_" + std::to_string(::getpid()));
    int calls = 0;
    const auto run = [&](int most) {
        TuneJournal journal(path, "a model");
        return tune(toy.problem, {[&](const Mixture& mixture) {
                        return journal.errors(toy.problem, mixture, [&](const Mixture& asked) {
                            if (++calls > most) throw Cancelled("stop");
                            return coupled(toy, asked);
                        });
                    }});
    };
    EXPECT_THROW(run(4), Cancelled);
    calls = 0;
    const Mixture found = run(1000).best.choices;
    const int rest = calls;
    calls = 0;
    EXPECT_EQ(run(0).best.choices, found);  // nothing is measured twice
    EXPECT_EQ(calls, 0);
    EXPECT_GE(rest, 10 + 2 - 4);
    EXPECT_LE(rest, 10 + 2 - 4 + 10);
    EXPECT_THROW(TuneJournal(path, "another model"), InvalidArgument);
    for (const char* text : {"{}", "[", R"({"tune": 1, "subject": "a model", "figures": {"x": [-1]}})",
                             R"({"tune": 1, "subject": "a model", "figures": {"x": []}})"}) {
        write_file_atomically(path, text);
        EXPECT_THROW(TuneJournal(path, "a model"), InvalidArgument) << text;
    }
    std::filesystem::remove(path);
}

TEST(Tune, JournalKeepsNumbersOnly) {
    Toy toy(2, 1, 7);
    const auto path = std::filesystem::temp_directory_path() / ("tune_numbers_" + std::to_string(::getpid()));
    const std::string subject = tune_subject(3, 8, "abc");
    toy.problem.max_error = 0.5;
    EXPECT_NE(refusal(toy.problem,
                      [&](const Mixture& mixture) {
                          TuneJournal journal(path, subject);
                          journal.add("one", {0.5});
                          return journal.errors(toy.problem, mixture,
                                                [](const Mixture&) { return StepErrors{std::nan("")}; });
                      })
                  .find("is nan"),
              std::string::npos);
    const TuneJournal again(path, subject);
    EXPECT_TRUE(again.find("one"));
    check_tune_journal(path, 3, 8);
    check_tune_journal(path.string() + ".missing", 3, 9);
    for (const auto& [groups, inputs] : {std::pair(2, 8), std::pair(3, 9)}) {
        try {
            check_tune_journal(path, groups, static_cast<std::size_t>(inputs));
            ADD_FAILURE();
        } catch (const InvalidArgument& error) {
            EXPECT_NE(std::string(error.what()).find("measurements of 3 groups of 8 inputs, not of"),
                      std::string::npos)
                << error.what();
        }
    }
    std::filesystem::remove(path);
}

TEST(Tune, RecipesSayWhatWasChosen) {
    LayerPlan plan;
    std::vector<std::string> names;
    const TuneLayer layer{{"", DType::f32, {64, 128}}, TensorInfo{"", DType::f32, {64}}};
    for (const char* text : {"W8A8_DYNAMIC", "W4A8", "W4A8/gptq/32", "W4A16/ssz/0", "W8A16", "W4A4_MXFP4_SVD",
                             "MXFP4/ceil_x_search", "W4A4_MXFP4_DUALSCALE", "W4A4_DYNAMIC",
                             "WFP8AFP8_DYNAMIC", "W4A8_MXFP", "W8A8_MXFP8/mse_round"}) {
        names.push_back("blocks." + std::to_string(names.size()) + ".attn1.to_q");
        const auto options = options_for(tune_scheme(text), layer);
        ASSERT_TRUE(options) << text;
        plan[names.back()] = *options;
        EXPECT_GT(stored_bytes(*options, layer), 64U * 128U / 2U);
    }
    const std::string recipe = recipe_text(plan, {{"blocks.0.attn1", "FP8_DYNAMIC"}}, {"a comment"});
    const RecipePlan read = plan_of(parse_recipe(recipe, "recipe"), names);
    EXPECT_EQ(read.layers.size(), plan.size());
    EXPECT_TRUE(read.notes.empty());
    for (const auto& [name, how] : plan) {
        const LayerOptions& other = read.layers.at(name);
        EXPECT_EQ(other.scheme, how.scheme) << name;
        EXPECT_EQ(other.algorithm, how.algorithm) << name;
        EXPECT_EQ(other.low_rank, how.low_rank) << name;
        EXPECT_EQ(other.weight.group_size, how.weight.group_size) << name;
    }
    EXPECT_EQ(read.attentions.at("blocks.0.attn1").quant_type, "FP8_DYNAMIC");
    EXPECT_TRUE(read.attentions.at("blocks.0.attn1").rotated);
    for (const char* text : {"W8A8", "W9", "W4A8/none", "W4A8/mse_clip", "W4A8/percentile", "W4A8/gptq/32/1",
                             "W8A16_FP8", "W8A8_DYNAMIC_ROTATED", ""})
        EXPECT_THROW(tune_scheme(text), Error) << text;
}

}  // namespace
}  // namespace aerogel
