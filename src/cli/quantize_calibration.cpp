// From captions, embeddings, recorded inputs or files of earlier runs to statistics.
#include "cli/quantize_calibration.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <memory>
#include <string_view>

#include "aerogel/error.h"
#include "aerogel/pipeline.h"
#include "aerogel/safetensors.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"

namespace aerogel::cli {
namespace {

constexpr const char* kGroup = "Calibration (static schemes, and algorithms that need data)";
constexpr std::int64_t kSampleRows = 1024;
constexpr std::int64_t kMostNumber = 1'000'000'000;

// Progress of calibration as a bar; false once it is interrupted.
std::function<bool(int, int)> shown_progress() {
    auto bar = std::make_shared<std::unique_ptr<Progress>>();
    return [bar](int done, int total) {
        if (!*bar) *bar = std::make_unique<Progress>("calibrate", total);
        (*bar)->update(done);
        return !interrupted();
    };
}

void choose_captions(const std::string& model, const CalibrationFlags& flags, CalibrateOptions& options) {
    if (!flags.prompt_embeds.empty()) {
        options.prompt_embeds =
            SafetensorsFile::open(flags.prompt_embeds).tensor("prompt_embeds").to(DType::f32);
        return;
    }
    options.captions = flags.captions.empty() ? default_captions(model) : read_captions(flags.captions);
    if (flags.max_captions != 0 && options.captions.size() > flags.max_captions) {
        options.captions.resize(flags.max_captions);
    }
}

CalibrationRun merged(const std::vector<std::string>& files) {
    CalibrationRun run{{}, fmt::format("{}", fmt::join(files, ", ")), 0};
    for (const std::string& file : files) {
        const CalibrationStats stats = CalibrationStats::load(file);
        try {
            run.stats.merge(stats);
        } catch (const InvalidArgument& error) {
            throw InvalidArgument(fmt::format("{} ({} and {})", error.what(), file, files.front()));
        }
    }
    return run;
}

CalibrationRun from_records(const std::string& model, const CalibrationFlags& flags) {
    constexpr int kMostSteps = 100000;
    RecordedInputs inputs{flags.inputs, {}, flags.options.sample_rows, shown_progress()};
    if (!flags.timesteps.empty()) inputs.timesteps = parse_timesteps(flags.timesteps, kMostSteps);
    return {calibrate(*Transformer::load(model), inputs), flags.inputs, 0};
}

CalibrationRun from_captions(const std::string& model, const CalibrationFlags& flags) {
    CalibrateOptions options = flags.options;
    options.sampling = sampling_options("quantize", flags.sampling);
    choose_captions(model, flags, options);
    const Pipeline pipeline = Pipeline::load(model);
    if (!flags.timesteps.empty()) {
        GenerateOptions defaults;
        defaults.sampling = options.sampling;
        options.timesteps =
            parse_timesteps(flags.timesteps, *pipeline.with_defaults(defaults).sampling.steps);
    }
    options.progress = shown_progress();
    const std::size_t captions = options.prompt_embeds.defined()
                                     ? static_cast<std::size_t>(options.prompt_embeds.dim(0))
                                     : options.captions.size();
    return {calibrate(pipeline, options), "captions", captions};
}

}  // namespace

void check_calibration_flags(const CLI::App& command, const CalibrationFlags& flags, const Calibrates& what) {
    if (!what.anything()) {
        refuse_group(command, kGroup, fmt::format("for {}, which needs no calibration", what.scheme));
        return;
    }
    const auto count = static_cast<int>(!flags.captions.empty()) + static_cast<int>(!flags.inputs.empty()) +
                       static_cast<int>(!flags.prompt_embeds.empty()) +
                       static_cast<int>(!flags.files.empty());
    if (count > 1) {
        throw InvalidArgument(
            "[quantize] give one of --captions, --prompt-embeds, --recorded-inputs and --calibration");
    }
    if (!flags.files.empty()) {
        refuse_group(command, kGroup, "with --calibration, which runs nothing",
                     {"--calibration", "--save-calibration"});
    } else if (!flags.inputs.empty()) {
        refuse_group(command, kGroup, "with --recorded-inputs",
                     {"--recorded-inputs", "--samples", "--timesteps", "--save-calibration"});
    } else if (!flags.prompt_embeds.empty() && flags.max_captions != 0) {
        throw InvalidArgument("[quantize] --max-captions says nothing with --prompt-embeds");
    }
    if (!what.inputs && command.count("--samples") > 0)
        throw InvalidArgument("[quantize] --samples says nothing where no algorithm looks at inputs");
}

std::vector<int> parse_timesteps(const std::string& text, int steps) {
    const auto fail = [&] {
        throw InvalidArgument(fmt::format(
            "[quantize] --timesteps must be steps and ranges in [0, {}), for example 0-9,12,20-, got '{}'",
            steps, text));
    };
    std::vector<int> result;
    std::string_view rest = text;
    while (true) {
        int first = 0;
        auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), first);
        if (error != std::errc{}) fail();
        rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
        int last = first;
        if (rest.starts_with('-')) {
            rest.remove_prefix(1);
            const auto [range_end, no_end] = std::from_chars(rest.data(), rest.data() + rest.size(), last);
            if (no_end == std::errc::result_out_of_range) fail();
            if (no_end != std::errc{}) last = steps - 1;  // "20-"
            rest.remove_prefix(static_cast<std::size_t>(range_end - rest.data()));
        }
        if (first < 0 || last < first || last >= steps) fail();
        for (int step = first; step <= last; ++step) result.push_back(step);
        if (rest.empty()) return result;
        if (!rest.starts_with(',')) fail();
        rest.remove_prefix(1);
    }
}

CalibrationRun run_calibration(const std::string& model, const CalibrationFlags& flags) {
    if (!flags.save.empty()) {
        std::vector<std::filesystem::path> inputs = {model, flags.captions, flags.prompt_embeds,
                                                     flags.inputs};
        inputs.insert(inputs.end(), flags.files.begin(), flags.files.end());
        check_output_file("quantize", flags.save, inputs);
    }
    CalibrationRun run = !flags.files.empty()    ? merged(flags.files)
                         : !flags.inputs.empty() ? from_records(model, flags)
                                                 : from_captions(model, flags);
    if (!flags.save.empty()) run.stats.save(flags.save);
    return run;
}

void add_calibration_options(CLI::App& command, CalibrationFlags& flags) {
    const auto add = [&](const char* name, auto& value, const char* text) {
        return command.add_option(name, value, text)->group(kGroup);
    };
    add("--captions", flags.captions, "File with one caption per line (default: the model's own)");
    add("--max-captions", flags.max_captions, "Use at most this many captions (0: all)")
        ->check(whole_number(0, kMostNumber));
    add("--prompt-embeds", flags.prompt_embeds,
        "A .safetensors file with prompt_embeds [captions,len,dim], instead of captions");
    add("--recorded-inputs", flags.inputs,
        "A .safetensors file with recorded inputs of the transformer (see aerogel forward --help), instead "
        "of captions");
    add_sampling_flags(command, flags.sampling, kGroup);
    flags.options.sample_rows = kSampleRows;
    add("--samples", flags.options.sample_rows,
        "Rows of input kept per layer, for algorithms that need them (default 1024)")
        ->check(whole_number(1, kMostNumber));
    add("--timesteps", flags.timesteps,
        "Measure in these steps only, for example 0-9,12,20- (W8A8_TIMESTEP keeps scales for each)");
    add("--save-calibration", flags.save, "Save the measured ranges to this file");
    add("--calibration", flags.files,
        "Use saved ranges instead of running the model; several files are merged");
}

}  // namespace aerogel::cli
