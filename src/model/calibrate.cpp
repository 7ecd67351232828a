// Running the pipeline with a hook on every Linear.
#include "model/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <sstream>
#include <utility>

#include "aerogel/error.h"
#include "core/input_file.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/recorded_inputs.h"

namespace aerogel {
namespace {

constexpr const char* kCaptionFile = "calibration_captions.txt";
// Every colour, shape and motion of the example model at least once, with one and with two objects.
constexpr const char* kBuiltInCaptions[] = {
    "red circle moves left", "blue star turns, yellow square moves up", "green triangle moves right",
    "purple circle moves down, cyan star moves left"};

std::size_t caption_count(const CalibrateOptions& options) {
    if (!options.prompt_embeds.defined()) return options.captions.size();
    if (options.prompt_embeds.dtype() != DType::f32 || options.prompt_embeds.shape().size() != 3) {
        throw InvalidArgument("[calibrate] prompt_embeds must be f32[captions,text_len,text_dim], got " +
                              options.prompt_embeds.describe());
    }
    return static_cast<std::size_t>(options.prompt_embeds.dim(0));
}

// Embeddings of one caption, a copy [1, text_len, text_dim].
Tensor embedding_of(const Tensor& all, std::size_t index) {
    Tensor one(DType::f32, {1, all.dim(1), all.dim(2)});
    std::memcpy(one.mutable_data(), static_cast<const std::byte*>(all.data()) + index * one.bytes(),
                one.bytes());
    return one;
}

bool is_chosen(const std::vector<int>& timesteps, int step) {
    return timesteps.empty() || std::find(timesteps.begin(), timesteps.end(), step) != timesteps.end();
}

// Steps to run: up to the last one that is measured.
int last_step(const std::vector<int>& timesteps, int steps) {
    if (timesteps.empty()) return steps;
    const auto [first, last] = std::minmax_element(timesteps.begin(), timesteps.end());
    if (*first >= 0 && *last < steps) return *last + 1;
    throw InvalidArgument(
        fmt::format("[calibrate] timesteps must be in [0, {}), got {}", steps, *first < 0 ? *first : *last));
}

// One video; ends it after `last` steps.
void sample(const Pipeline& pipeline, GenerateOptions& generate, int last,
            const std::function<bool(int step)>& progress) {
    bool enough = false;
    generate.progress = [&](int step, int, double) {
        if (!progress(step)) return false;
        enough = step == last;
        return !enough || last == *generate.sampling.steps;
    };
    try {
        pipeline.generate(generate);
    } catch (const Cancelled&) {
        if (!enough) throw;
    }
}

}  // namespace

CalibrationStats calibrate(const Pipeline& pipeline, const CalibrateOptions& options) {
    const std::size_t captions = caption_count(options);
    if (captions == 0) throw InvalidArgument("[calibrate] there are no captions to calibrate with");
    GenerateOptions generate;
    generate.sampling = options.sampling;
    generate = pipeline.with_defaults(std::move(generate));
    const int steps = *generate.sampling.steps;
    CalibrationStats stats(steps, options.sample_rows);
    const int last = last_step(options.timesteps, steps);
    generate.on_linear_input = [&](const std::string& linear, int step, const TensorView& x) {
        if (is_chosen(options.timesteps, step)) stats.observe(linear, step, x);
    };
    if (options.attention) {
        generate.on_attention_input = [&](int, const AttentionInput& at) {
            stats.attention().observe(at.name, at.q, at.k, at.v);
        };
    }
    for (std::size_t i = 0; i < captions; ++i) {
        generate.sampling.seed = options.sampling.seed + i;
        if (options.prompt_embeds.defined()) {
            generate.prompt_embeds = embedding_of(options.prompt_embeds, i);
        } else {
            generate.prompt = options.captions[i];
        }
        const int done = static_cast<int>(i) * last;
        sample(pipeline, generate, last, [&](int step) {
            return !options.progress || options.progress(done + step, static_cast<int>(captions) * last);
        });
    }
    return stats;
}

std::vector<std::string> read_captions(const std::filesystem::path& path) {
    constexpr std::size_t kLimit = 10'000'000;
    std::istringstream text(read_text_file(path, "calibrate", kLimit));
    std::vector<std::string> captions;
    for (std::string line; std::getline(text, line);) {
        const std::size_t first = line.find_first_not_of(" \t\r");
        if (first == std::string::npos || line[first] == '#') continue;
        captions.push_back(line.substr(first, line.find_last_not_of(" \t\r") - first + 1));
    }
    if (captions.empty()) throw InvalidArgument("[calibrate] " + path.string() + " has no captions");
    return captions;
}

std::vector<std::string> default_captions(const std::filesystem::path& model_folder) {
    const auto file = model_folder / kCaptionFile;
    if (path_exists(file)) return read_captions(file);
    return {std::begin(kBuiltInCaptions), std::end(kBuiltInCaptions)};
}

// --- from recorded inputs: the transformer runs once per record, no sampler, no text encoder

CalibrationStats calibrate(const Transformer& model, const RecordedInputs& inputs) {
    const RecordedInputFile records(inputs.file, "calibrate");
    const int steps = *std::max_element(records.steps().begin(), records.steps().end()) + 1;
    std::vector<std::int64_t> chosen;
    for (std::int64_t i = 0; i < records.count(); ++i) {
        const int step = records.steps()[static_cast<std::size_t>(i)];
        const auto& wanted = inputs.timesteps;
        if (wanted.empty() || std::find(wanted.begin(), wanted.end(), step) != wanted.end())
            chosen.push_back(i);
    }
    if (chosen.empty()) {
        throw InvalidArgument(fmt::format("[calibrate] {}: none of its {} records is of a chosen timestep",
                                          inputs.file.string(), records.count()));
    }
    CalibrationStats stats(steps, inputs.sample_rows);
    int done = 0;
    for (const std::int64_t record : chosen) {
        TransformerStep settings;
        settings.context.timestep_index = records.steps()[static_cast<std::size_t>(record)];
        settings.on_linear_input = [&](const std::string& linear, const TensorView& x) {
            stats.observe(linear, settings.context.timestep_index, x);
        };
        model.forward(records.input(record), settings);
        if (inputs.progress && !inputs.progress(++done, static_cast<int>(chosen.size()))) {
            throw Cancelled("[calibrate] stopped");
        }
    }
    return stats;
}

}  // namespace aerogel
