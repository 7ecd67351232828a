// Running a native transformer with mixtures of choices.
#include "model/tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/quantized_linear.h"
#include "aerogel/threads.h"
#include "base/clock.h"
#include "base/cpu_features.h"
#include "base/random.h"
#include "core/hash.h"
#include "quant/attention.h"
#include "quant/float_layer.h"
#include "quant/layer_patterns.h"
#include "quant/tune/choices.h"
#include "quant/tune/journal.h"

namespace aerogel {
namespace {

TensorInfo info_of(const std::string& name, DType dtype, Shape shape) {
    return {name, dtype, std::move(shape)};
}

// A module of the model and what may become of it.
struct TunedModule {
    bool is_attention = false;
    std::vector<LayerOptions> options;      // of a Linear: of choice 1, 2 ...
    std::vector<std::string> types;         // of an attention: the same
    std::unique_ptr<Linear> original = {};  // while another layer is in its place
};

std::vector<std::string> patterns_or(const std::vector<std::string>& patterns, std::string_view otherwise) {
    return patterns.empty() ? std::vector{std::string(otherwise)} : patterns;
}

class ModelTuning {
  public:
    ModelTuning(Transformer& model, const std::vector<TuneRecord>& records, const TuneOptions& options)
        : model_(model), records_(records), options_(options), steps_(1 + last_step()) {
        tuned_.calibration = CalibrationStats(steps_, options.sample_rows);
        tuned_.float_bytes = static_cast<double>(model.weight_bytes());
        tuned_.problem.fixed_bytes = tuned_.float_bytes;
        add_linears();
        add_attentions();
        tuned_.problem.max_error = options.max_error;
        tuned_.problem.max_cost = options.max_bytes;
        for (TuneModule& module : tuned_.problem.modules)
            for (TuneChoice& choice : module.choices) choice.cost = choice.bytes;
        tuned_.problem.fixed_cost = tuned_.problem.fixed_bytes;
    }
    ~ModelTuning() {
        if (!current_.empty()) take(Mixture(current_.size(), 0));  // also after an error
    }
    ModelTuning(const ModelTuning&) = delete;
    ModelTuning& operator=(const ModelTuning&) = delete;

    /// Costs are bytes; seconds are measured later.
    const TuneProblem& problem() const { return tuned_.problem; }

    TunedModel run() {
        group_records();
        check_tune_journal(options_.measurements, options_.step_groups, records_.size());
        run_original();
        TuneJournal journal(options_.measurements, subject());
        try {
            measure(journal);
        } catch (const Cancelled&) {
            journal.write();  // or says why not
            throw;
        }
        journal.write();
        describe();
        take(Mixture(modules_.size(), 0));
        return std::exchange(tuned_, {});
    }

  private:
    void measure(TuneJournal& journal) {
        if (options_.minimize_time) set_seconds(journal);
        TuneCalls calls;
        calls.measure = [&](const Mixture& mixture) {
            return journal.errors(tuned_.problem, mixture, [&](const Mixture& m) { return errors_of(m); });
        };
        calls.progress = [&](int done, int total, const std::string& what) { tell(done, total, what); };
        tuned_.result = tune(tuned_.problem, calls);
    }

    int last_step() const {
        int last = 0;
        for (const TuneRecord& record : records_) last = std::max(last, record.step);
        return last;
    }

    void tell(int done, int total, const std::string& what) const {
        if (options_.progress && !options_.progress(done, total, what)) throw Cancelled("[tune] stopped");
    }

    // Records in the order of their steps, cut into groups of equally many.
    void group_records() {
        const auto count = static_cast<int>(records_.size());
        if (options_.step_groups < 1 || options_.step_groups > count) {
            throw InvalidArgument(
                fmt::format("[tune] the groups of steps must be 1 .. {} (the records), got {}", count,
                            options_.step_groups));
        }
        std::vector<std::size_t> order(records_.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return records_[a].step < records_[b].step; });
        group_.resize(records_.size());
        for (int i = 0; i < count; ++i) {
            const int group = i * options_.step_groups / count;
            group_[order[static_cast<std::size_t>(i)]] = static_cast<std::size_t>(group);
            if (static_cast<int>(tuned_.first_steps.size()) == group)
                tuned_.first_steps.push_back(records_[order[static_cast<std::size_t>(i)]].step);
        }
    }

    void add_linears() {
        std::vector<TuneScheme> schemes;
        for (const std::string& text : options_.schemes) schemes.push_back(tune_scheme(text));
        std::vector<bool> fits(schemes.size());
        for (const std::string& name :
             select_layers(model_.linear_names(), patterns_or(options_.include, model_.default_layers()),
                           options_.exclude)) {
            const auto* linear = dynamic_cast<const FloatLinear*>(&model_.linear(name));
            if (linear == nullptr) continue;
            const StoredWeight& stored = linear->stored();
            TuneLayer layer{info_of(name + ".weight", stored.dtype, stored.shape), std::nullopt};
            if (linear->bias().defined())
                layer.bias = info_of(name + ".bias", stored.dtype, linear->bias().shape());
            TunedModule module;
            const double bytes = static_cast<double>(linear->weight_bytes());
            TuneModule choices{name, {{"FLOAT", 0.0, bytes}}};
            for (std::size_t i = 0; i < schemes.size(); ++i) {
                const TuneScheme& scheme = schemes[i];
                const auto how = options_for(scheme, layer);
                if (!how) continue;
                fits[i] = true;
                choices.choices.push_back({scheme.name, 0.0, static_cast<double>(stored_bytes(*how, layer))});
                module.options.push_back(*how);
                keeps_inputs_ = keeps_inputs_ || needs_inputs(*how->scheme, *how);
            }
            tuned_.problem.fixed_bytes -= bytes;
            tuned_.problem.modules.push_back(std::move(choices));
            modules_.push_back(std::move(module));
        }
        for (std::size_t i = 0; i < schemes.size(); ++i) {
            if (fits[i] || modules_.empty()) continue;
            throw InvalidArgument(fmt::format("[tune] {} fits none of the {} layers ({} ...)",
                                              schemes[i].name, modules_.size(),
                                              tuned_.problem.modules.front().name));
        }
    }

    // Recipes speak of self-attention only.
    void add_attentions() {
        if (options_.attentions.empty()) return;
        for (const std::string& type : options_.attentions) {
            if (attention_type("tune", type).calibrated) {
                throw InvalidArgument(fmt::format("[tune] {} has calibrated scales; there are: {}", type,
                                                  dynamic_attention_types()));
            }
        }
        for (const std::string& name :
             select_attentions(model_.attention_names(), {std::string(model_.default_attentions())})) {
            TuneModule choices{name, {{"FLOAT", 0.0, 0.0}}};
            for (const std::string& type : options_.attentions) choices.choices.push_back({type, 0.0, 0.0});
            tuned_.problem.modules.push_back(std::move(choices));
            TunedModule module;
            module.is_attention = true;
            module.types = options_.attentions;
            modules_.push_back(std::move(module));
        }
    }

    // The outputs that errors are measured against, the inputs of the layers, and how many rows they have.
    void run_original() {
        for (std::size_t i = 0; i < records_.size(); ++i) {
            tell(0, 1, fmt::format("unchanged model, record {} of {}", i + 1, records_.size()));
            TransformerStep step;
            step.context.timestep_index = records_[i].step;
            step.on_linear_input = [&](const std::string& linear, const TensorView& x) {
                rows_[linear] = x.count() / x.shape.back();
                if (keeps_inputs_) tuned_.calibration.observe(linear, records_[i].step, x);
            };
            step.on_attention_input = [&](const AttentionInput& at) { shapes_[at.name] = at.q.shape; };
            reference_.push_back(model_.forward(records_[i].input, step).values());
        }
        if (options_.minimize_time) time_original();
    }

    // Caches are filled now, and nothing looks on.
    void time_original() {
        const auto start = Clock::now();
        for (std::size_t i = 0; i < records_.size(); ++i) {
            tell(0, 1, fmt::format("time of the unchanged model, record {} of {}", i + 1, records_.size()));
            TransformerStep step;
            step.context.timestep_index = records_[i].step;
            model_.forward(records_[i].input, step);
        }
        seconds_ = seconds_since(start) / static_cast<double>(records_.size());
    }

    // The outputs of the unchanged model tell model, inputs and CPU level apart.
    std::string subject() const {
        std::uint64_t hash = 0;
        for (const auto& values : reference_) hash = hash_bytes(std::as_bytes(std::span(values)), hash);
        return tune_subject(options_.step_groups, records_.size(), fmt::format("{:016x}", hash));
    }

    void take(const Mixture& mixture) {
        current_.resize(mixture.size(), 0);
        for (std::size_t m = 0; m < mixture.size(); ++m) {
            if (mixture[m] == current_[m]) continue;
            const std::string& name = tuned_.problem.modules[m].name;
            TunedModule& module = modules_[m];
            if (module.is_attention) {
                model_.set_attention(name, attention_of(m, mixture[m]));
            } else if (mixture[m] == 0) {
                model_.replace_linear(name, std::exchange(module.original, nullptr));
            } else {
                std::unique_ptr<Linear> before = model_.replace_linear(name, built(m, mixture[m]));
                if (current_[m] == 0) module.original = std::move(before);
            }
            current_[m] = mixture[m];
        }
    }

    std::optional<AttentionQuantization> attention_of(std::size_t m, int choice) const {
        if (choice == 0) return std::nullopt;
        const std::string& type = modules_[m].types[static_cast<std::size_t>(choice) - 1];
        return dynamic_attention(attention_type("tune", type),
                                 model_.attention(tuned_.problem.modules[m].name).head_dim);
    }

    std::unique_ptr<Linear> built(std::size_t m, int choice) const {
        const std::string& name = tuned_.problem.modules[m].name;
        const TunedModule& module = modules_[m];
        const LayerOptions& how = module.options[static_cast<std::size_t>(choice) - 1];
        const Linear& now = module.original ? *module.original : model_.linear(name);
        const auto& linear = dynamic_cast<const FloatLinear&>(now);
        FloatLayer layer{name, linear.weight().to(Device::cpu),
                         linear.bias().defined() ? linear.bias().to(Device::cpu) : Tensor()};
        if (needs_inputs(*how.scheme, how)) layer.inputs = tuned_.calibration.inputs(name).rows;
        return std::make_unique<QuantizedLinear>(quantize_float(layer, *how.scheme, how), model_.device(),
                                                 KeptArrays::packed_weight);
    }

    StepErrors errors_of(const Mixture& mixture) {
        take(mixture);
        std::vector<double> error(static_cast<std::size_t>(options_.step_groups), 0.0), norm = error;
        for (std::size_t i = 0; i < records_.size(); ++i) {
            if (options_.progress && i != 0) tell(-1, -1, "");  // may stop within a measurement
            TransformerStep step;
            step.context.timestep_index = records_[i].step;
            const std::vector<float> values = model_.forward(records_[i].input, step).values();
            for (std::size_t j = 0; j < values.size(); ++j) {
                const double wanted = reference_[i][j], difference = static_cast<double>(values[j]) - wanted;
                error[group_[i]] += difference * difference;
                norm[group_[i]] += wanted * wanted;
            }
        }
        for (std::size_t g = 0; g < error.size(); ++g)
            error[g] = std::sqrt(error[g] / std::max(norm[g], 1e-300));
        return error;
    }

    void set_seconds(TuneJournal& journal) {
        double tuned = 0.0;
        for (std::size_t m = 0; m < modules_.size(); ++m) {
            for (std::size_t c = 0; c < tuned_.problem.modules[m].choices.size(); ++c) {
                TuneChoice& choice = tuned_.problem.modules[m].choices[c];
                choice.cost = seconds(m, static_cast<int>(c), journal);
                if (c == 0) tuned += choice.cost;
            }
        }
        tuned_.problem.fixed_cost = std::max(0.0, seconds_ - tuned);
    }

    // Modules of one shape cost the same, on one machine.
    double seconds(std::size_t m, int choice, TuneJournal& journal) {
        const TuneModule& module = tuned_.problem.modules[m];
        const std::string& name = module.name;
        const bool attention = modules_[m].is_attention;
        const Linear* linear = attention ? nullptr : &model_.linear(name);
        const auto rows = rows_.find(name);
        if (attention ? !shapes_.contains(name) : rows == rows_.end()) return 0.0;
        const std::string key = fmt::format("seconds on {}, {}, {} threads ", cpu_name(),
                                            model_.device().describe(), num_threads()) +
                                (attention ? to_string(shapes_.at(name))
                                           : fmt::format("{}x{}x{}", rows->second, linear->out_features(),
                                                         linear->in_features())) +
                                " " + module.choices[static_cast<std::size_t>(choice)].name;
        if (const auto known = journal.find(key)) return known->front();
        double result = 0.0;
        if (attention) {
            result = seconds_of_attention(shapes_.at(name), attention_of(m, choice));
        } else {
            const auto layer = choice == 0 ? nullptr : built(m, choice);
            result = seconds_of(layer ? *layer : *linear, rows->second);
        }
        journal.add(key, {result});
        return result;
    }

    static double median_of(const std::function<void()>& call) {
        constexpr int kRuns = 5;
        std::vector<double> seconds;
        for (int run = 0; run <= kRuns; ++run) {
            const auto start = Clock::now();
            call();
            if (run != 0) seconds.push_back(seconds_since(start));  // the first one fills caches
        }
        std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
        return seconds[kRuns / 2];
    }

    static Tensor noise(const Shape& shape, Device device) {
        std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
        fill_normal(values, 0);
        return Tensor::of(values, shape, device);
    }

    double seconds_of(const Linear& layer, std::int64_t rows) const {
        const Tensor x = noise({rows, layer.in_features()}, model_.device());
        Tensor y(DType::f32, {rows, layer.out_features()}, model_.device());
        return median_of([&] { layer.forward(x, y, {}); });
    }

    double seconds_of_attention(const Shape& shape, const std::optional<AttentionQuantization>& how) const {
        const Tensor q = noise(shape, model_.device());
        Tensor o(DType::f32, shape, model_.device());
        const AttentionOptions options = attention_options(how, nullptr, -1);
        return median_of([&] { attention(q, q, q, o, options); });
    }

    void describe() {
        for (std::size_t m = 0; m < modules_.size(); ++m) {
            const int choice = tuned_.result.best.choices[m];
            if (choice == 0) continue;
            const std::string& name = tuned_.problem.modules[m].name;
            if (modules_[m].is_attention) {
                tuned_.attentions[name] = modules_[m].types[static_cast<std::size_t>(choice) - 1];
                continue;
            }
            const LayerOptions& how = modules_[m].options[static_cast<std::size_t>(choice) - 1];
            tuned_.layers[name] = how;
            tuned_.needs_calibration = tuned_.needs_calibration || needs_inputs(*how.scheme, how);
        }
    }

    Transformer& model_;
    const std::vector<TuneRecord>& records_;
    const TuneOptions& options_;
    int steps_;
    TunedModel tuned_;
    std::vector<TunedModule> modules_;  // of tuned_.problem.modules
    Mixture current_;
    bool keeps_inputs_ = false;
    std::vector<std::size_t> group_;  // of steps, of each record
    std::vector<std::vector<float>> reference_;
    std::map<std::string, std::int64_t> rows_;
    std::map<std::string, Shape> shapes_;
    double seconds_ = 0.0;  // of a pass
};

}  // namespace

void check_tune(Transformer& model, const TuneOptions& options) {
    if (options.minimize_time && options.max_bytes)
        throw InvalidArgument("[tune] a largest size leaves the least error to look for, not the least time");
    const std::vector<TuneRecord> none;
    check_tune_problem(ModelTuning(model, none, options).problem());
}

TunedModel tune(Transformer& model, const std::vector<TuneRecord>& records, const TuneOptions& options) {
    check_tune(model, options);
    return ModelTuning(model, records, options).run();
}

}  // namespace aerogel
