// aerogel generate MODEL --prompt ...: from a caption to a video file, and a report of what was done.
#include <fmt/format.h>
#include <algorithm>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/pipeline.h"
#include "aerogel/quantize.h"
#include "aerogel/safetensors.h"
#include "base/clock.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/generate_report.h"
#include "cli/output.h"
#include "cli/quantization_flags.h"
#include "cli/sampling_flags.h"
#include "cli/sparse_flags.h"
#include "cli/timings_report.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/video/video_file.h"

namespace aerogel::cli {
namespace {

constexpr std::int64_t kMostVideos = 1000;

struct GenerateFlags {
    std::string model;
    std::optional<std::string> prompt;
    std::string negative_prompt;
    std::string prompt_embeds;
    QuantizationFlags quantization;
    std::string weights_2;  ///< of the second expert, as --transformer, --quantized and --lora of the first
    std::string files_2;
    std::vector<std::string> loras_2;
    std::string text_encoder_scheme = "auto";
    std::string text_encoder_files;
    std::string device = "cpu";
    SparseFlags sparse;
    SamplingFlags sampling;
    std::string cache = "none";
    std::optional<double> cache_threshold;
    std::optional<double> frames_per_second;
    std::string first_frame;
    std::string last_frame;
    std::string preview;
    int preview_every = 0;
    int batch = 1;
    std::vector<std::string> outputs;
    std::string keep;  // "device", "host" or nothing
    bool timings = false;
    bool json = false;
};

GenerateOptions to_options(const GenerateFlags& flags) {
    GenerateOptions options;
    options.prompt = flags.prompt.value_or("");
    options.negative_prompt = flags.negative_prompt;
    options.sampling = sampling_options("generate", flags.sampling);
    StepCacheConfig& cache = options.sampling.cache;
    cache.kind = step_cache_kind_from(flags.cache);
    cache.threshold = flags.cache_threshold.value_or(cache.threshold);
    if (!flags.prompt_embeds.empty()) {
        const auto file = SafetensorsFile::open(flags.prompt_embeds);
        options.prompt_embeds = file.tensor("prompt_embeds").to(DType::f32);
        if (file.contains("negative_prompt_embeds")) {
            options.negative_prompt_embeds = file.tensor("negative_prompt_embeds").to(DType::f32);
        }
    }
    if (!has_extension(flags.first_frame, ".safetensors"))
        options.image = flags.first_frame;
    else
        options.first_frame = SafetensorsFile::open(flags.first_frame).tensor("first_frame").to(DType::f32);
    options.timestep_policy = policy_file(flags.quantization);
    options.first_static_step = flags.quantization.first_static_step;
    options.last_image = flags.last_frame;
    options.sparse = sparse_config(flags.sparse);
    options.keep = flags.keep == "device" ? Keep::on_device
                   : flags.keep == "host" ? Keep::in_host_memory
                                          : Keep::nothing;
    return options;
}

// What is said of the second expert: its own files, and all else as of the first.
QuantizationFlags second_expert(const GenerateFlags& flags) {
    QuantizationFlags own = flags.quantization;
    own.weights = flags.weights_2;
    own.files = flags.files_2;
    own.loras = flags.loras_2;
    return own;
}

// Where video `index` goes: of several, each has its seed before the ending.
std::filesystem::path output_path(const GenerateFlags& flags, std::filesystem::path path, int index) {
    if (!path.has_filename()) path = path.parent_path();  // "folder/"
    if (flags.batch == 1) return path;
    if (!path.has_filename() || path.filename() == "." || path.filename() == "..") {
        throw InvalidArgument(fmt::format(
            "[generate] the seeds of a batch stand in the names of the outputs, and {} is no name",
            in_quotes(path.string())));
    }
    const std::uint64_t seed = flags.sampling.options.seed + static_cast<std::uint64_t>(index);
    return path.replace_filename(
        fmt::format("{}-{}{}", path.stem().string(), seed, path.extension().string()));
}

// Parents are made, so an output may be a file in a folder that is not there yet.
void check_output(const GenerateFlags& flags, const std::filesystem::path& path) {
    if (path == "-")
        throw InvalidArgument(
            "[generate] -o - would be the standard output, which is not supported: name a file or a folder "
            "(./- is one)");
    std::vector<std::filesystem::path> inputs = {flags.model,          flags.prompt_embeds,
                                                 flags.first_frame,    flags.last_frame,
                                                 flags.sparse.profile, flags.text_encoder_files};
    for (const QuantizationFlags& of : {flags.quantization, second_expert(flags)})
        for (auto& file : files_of(of)) inputs.push_back(std::move(file));
    const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
    if (path.extension().empty()) {
        check_output_folder("generate", path);
    } else if (is_folder(folder)) {
        check_output_file("generate", path, inputs);
    } else {
        check_output_folder("generate", folder);
    }
}

void check_outputs(const GenerateFlags& flags) {
    std::vector<std::filesystem::path> outputs;
    for (const std::string& output : flags.outputs) {
        for (int i = 0; i < flags.batch; ++i) {
            outputs.push_back(output_path(flags, output, i));
            check_output(flags, outputs.back());
        }
    }
    if (!flags.preview.empty()) outputs.emplace_back(flags.preview);
    check_distinct("generate", outputs);
    if (flags.preview.empty()) return;
    check_video_path(flags.preview, {});
    const std::string ending = extension_of(flags.preview);
    if (ending != ".png" && ending != ".jpg" && ending != ".jpeg" && ending != ".webp") {
        throw InvalidArgument(
            fmt::format("[generate] --preview writes .png, .jpg or .webp, got '{}'", flags.preview));
    }
    check_output(flags, flags.preview);
}

LoadOptions text_encoder_options(const GenerateFlags& flags, GenerateReport& report) {
    LoadOptions options;
    options.device = parse_device("generate", flags.device);
    const std::string& scheme = flags.text_encoder_scheme;
    if (scheme != "auto" && !flags.text_encoder_files.empty()) {
        throw InvalidArgument(
            "[generate] --text-encoder-quantized reads files and --text-encoder-scheme needs none: give only "
            "one of them");
    }
    options.quantized = flags.text_encoder_files;
    options.automatic = scheme == "auto";
    if (scheme != "auto" && scheme != "float") options.online.emplace().quant_type = scheme;
    options.on_quantized = [&report](const QuantizeReport& quantized) {
        if (!quantized.because.empty()) print_error("text encoder: " + quantized.because);
        report.text_encoder = quantized;
    };
    return options;
}

std::optional<LoadOptions> second_expert_options(const GenerateFlags& flags, const LoadOptions& first) {
    if (flags.weights_2.empty() && flags.files_2.empty() && flags.loras_2.empty()) return std::nullopt;
    LoadOptions options = load_options(second_expert(flags));
    options.device = first.device;
    options.on_quantized = first.on_quantized;
    return options;
}

// Known before the work where there is a VAE; without one the transformer tells.
void check_endings(const Pipeline& pipeline, const GenerateFlags& flags, const SamplingOptions& sampling) {
    const std::int64_t channels = pipeline.has_vae() ? 3 : pipeline.transformer_config().out_channels;
    for (const auto& output : flags.outputs)
        check_video_path(output, {channels, sampling.frames.value_or(1)});
    if (!flags.preview.empty() && !pipeline.has_vae())
        throw InvalidArgument("[generate] --preview needs a model folder with a VAE");
}

/// Bars of the stages on a terminal.
class StageProgress {
  public:
    void stage(std::string_view name, double done) {
        if (name == "denoise") return;  // steps() shows it
        constexpr std::int64_t kParts = 100;
        if (name_ != name) begin(name, kParts);
        bar_->update(static_cast<std::int64_t>(done * kParts));
    }
    void steps(int done, int total, double seconds) {
        if (name_ != "generate") begin("generate", total);
        bar_->update(done, show_seconds(seconds) + "/step");
    }

  private:
    void begin(std::string_view name, std::int64_t total) {
        bar_.reset();  // ends its line
        name_ = name;
        bar_.emplace(name_, total);
    }

    std::string name_;
    std::optional<Progress> bar_;
};

void make_videos(const Pipeline& pipeline, const GenerateFlags& flags, GenerateReport& report) {
    std::optional<Timings> timings;
    if (flags.timings) timings.emplace();
    if (!flags.preview.empty()) {
        report.options.preview_every =
            flags.preview_every > 0 ? flags.preview_every : std::max(1, *report.options.sampling.steps / 8);
        report.options.on_preview = [&](int, const Tensor& picture) { save_video(flags.preview, picture); };
    }
    StageProgress progress;
    report.options.on_stage = [&](std::string_view name, double done) {
        progress.stage(name, done);
        return !interrupted();
    };
    report.options.progress = [&](int step, int steps, double seconds) {
        progress.steps(step, steps, seconds);
        return !interrupted();
    };
    const auto start = Clock::now();
    report.results = pipeline.generate(report.options, flags.batch);
    if (timings) report.timings = {timings->operations(), seconds_since(start)};
}

// What took long to make is written wherever it can be; then the first failure is told.
void write_outputs(const GenerateFlags& flags, double frames_per_second, GenerateReport& report) {
    std::exception_ptr failure;
    for (int i = 0; i < static_cast<int>(report.results.size()); ++i) {
        const SaveVideoOptions options = {flags.frames_per_second.value_or(frames_per_second),
                                          parameters_text(report, i)};
        for (const auto& output : flags.outputs) {
            const auto path = output_path(flags, output, i);
            try {
                save_video(path, report.results[static_cast<std::size_t>(i)].video, options);
                report.outputs.push_back(path.string());
            } catch (const IoError&) {
                if (!failure) failure = std::current_exception();
            }
        }
    }
    if (failure) std::rethrow_exception(failure);
}

void run_generate(const GenerateFlags& flags) {
    check_outputs(flags);
    if (flags.prompt.has_value() == !flags.prompt_embeds.empty()) {
        throw InvalidArgument(
            "[generate] what is to be made is said by --prompt, which may be empty, or by --prompt-embeds: "
            "give one of them");
    }
    if (flags.cache_threshold && step_cache_kind_from(flags.cache) == StepCacheKind::none)
        throw InvalidArgument("[generate] --cache-threshold says nothing without --cache");
    if (flags.preview_every > 0 && flags.preview.empty())
        throw InvalidArgument("[generate] --preview-every says nothing without --preview");
    if (flags.frames_per_second && std::none_of(flags.outputs.begin(), flags.outputs.end(), has_frame_rate))
        throw InvalidArgument("[generate] --fps says nothing without an output .mp4 or .gif");
    if (flags.sampling.options.image_first.value_or(false) && !flags.first_frame.empty())
        throw InvalidArgument(
            "[generate] --first-frame gives the frame that --image-first makes: give only one of them");
    GenerateReport report;
    LoadOptions load = load_options(flags.quantization);
    load.device = parse_device("generate", flags.device);
    load.on_quantized = [&](const QuantizeReport& quantized) {
        report.quantized.push_back(quantized);
        if (!quantized.because.empty()) print_error(quantized.because);
    };
    const std::optional<LoadOptions> load_2 = second_expert_options(flags, load);
    report.load_text = text_encoder_options(flags, report);
    const Pipeline pipeline = Pipeline::load(flags.model, load, report.load_text, load_2);
    report.options = pipeline.with_defaults(to_options(flags));
    report.model = flags.model;
    report.load = load;
    report.load_2 = load_2.value_or(LoadOptions{});
    report.prompt_embeds = flags.prompt_embeds;
    report.first_frame = flags.first_frame;
    check_endings(pipeline, flags, report.options.sampling);
    if (!flags.negative_prompt.empty() && !pipeline.guides(report.options)) {
        throw InvalidArgument(
            fmt::format("[generate] --negative-prompt says nothing without guidance, which is {}",
                        *report.options.sampling.guidance));
    }
    const bool quantizes_text = flags.text_encoder_scheme != "auto" || !flags.text_encoder_files.empty();
    if (quantizes_text && !pipeline.encodes_text(report.options)) {
        throw InvalidArgument(
            fmt::format("[generate] --text-encoder-{} says nothing where embeddings are given or the model "
                        "folder has no text encoder that Aerogel can run",
                        flags.text_encoder_files.empty() ? "scheme" : "quantized"));
    }
    make_videos(pipeline, flags, report);
    write_outputs(flags, pipeline.frames_per_second(), report);
    report.peak_memory_bytes = peak_memory_bytes();
    if (flags.json) {
        print_json(to_json(report));
    } else {
        print_text(to_text(report));
    }
}

void add_second_expert_flags(CLI::App& command, GenerateFlags& flags) {
    const std::string group = "Second expert (transformer_2)";
    command.add_option("--transformer-2", flags.weights_2, "As --transformer")->group(group);
    command.add_option("--quantized-2", flags.files_2, "As --quantized, which is needed too")->group(group);
    command.add_option("--lora-2", flags.loras_2, "As --lora; repeatable")->group(group);
}

void add_output_flags(CLI::App& command, GenerateFlags& flags) {
    command
        .add_option("--fps", flags.frames_per_second,
                    "Frames per second of .mp4 and .gif (default: the model's)")
        ->check(real_number(kLeastFrameRate, kMostFrameRate));
    command
        .add_option(
            "--text-encoder-scheme", flags.text_encoder_scheme,
            "Scheme of the text encoder, or float; auto: float where it fits into half of the memory, "
            "else W8A16 or W4A16")
        ->capture_default_str();
    command.add_option("--text-encoder-quantized", flags.text_encoder_files,
                       "A quantized pair of text_encoder/ (aerogel quantize MODEL/text_encoder)");
    command.add_option(
        "--preview", flags.preview,
        "A .png, .jpg or .webp file that shows the picture while it is made: small, written anew "
        "every few steps");
    command
        .add_option("--preview-every", flags.preview_every,
                    "Steps from one preview to the next (default: an eighth of all)")
        ->check(whole_number(1, kMostSteps));
    command
        .add_option("--batch", flags.batch,
                    "Videos of the caption, each with the next seed, which stands in the names of the files")
        ->capture_default_str()
        ->check(whole_number(1, kMostVideos));
    command
        .add_option("-o,--output", flags.outputs,
                    "Where to write: a .png, .jpg or .webp file for a picture, .mp4 or .gif for a video, "
                    ".safetensors for exact\nvalues, or a folder for PNG files; repeatable")
        ->required();
    command
        .add_flag("--keep{device}", flags.keep,
                  "Hold all components in memory until the end, as a server does (default: each goes when "
                  "its turn is over); --keep=host: in the memory of the host, so that a GPU holds one at a "
                  "time")
        ->check(CLI::IsMember({"device", "host"}));
}

}  // namespace

void add_generate(CLI::App& app) {
    auto* command = app.add_subcommand(
        "generate", "Make a picture or a video from a caption: float or quantized, dense or sparse");
    auto flags = std::make_shared<GenerateFlags>();
    command->add_option("MODEL", flags->model, "Pipeline folder (transformer/, text_encoder/ ...)")
        ->required();
    command->add_option("--prompt", flags->prompt, "The caption");
    command->add_option("--negative-prompt", flags->negative_prompt,
                        "Caption to steer away from (default: none)");
    command->add_option("--prompt-embeds", flags->prompt_embeds,
                        "A .safetensors file with prompt_embeds [1,len,dim] (and negative_prompt_embeds), "
                        "instead of --prompt");
    command->add_option("--device", flags->device, "Where to compute: cpu, cuda or cuda:N")
        ->capture_default_str();
    add_quantization_flags(*command, flags->quantization);
    add_second_expert_flags(*command, *flags);
    add_sparse_flags(*command, flags->sparse);
    add_sampling_flags(*command, flags->sampling);
    command
        ->add_option(
            "--cache", flags->cache,
            "Leave blocks out in steps where the first one changes little: none, first-block or taylor")
        ->capture_default_str();
    command
        ->add_option(
            "--cache-threshold", flags->cache_threshold,
            "--cache: the largest relative change of the first block's output; 0 leaves out nothing\n"
            "(default: 0.05)")
        ->check(real_number(0.0, 1e6));
    command->add_option(
        "--first-frame", flags->first_frame,
        "A picture (.png, .jpg, .webp) that the video begins with, or a .safetensors file with first_frame\n"
        "[channels,1,height,width], as the transformer takes it");
    command->add_option("--last-frame", flags->last_frame,
                        "A picture that the video of an image-to-video model ends with");
    add_output_flags(*command, *flags);
    add_timings_flag(*command, flags->timings);
    command->add_flag("--json", flags->json, "Print the report as JSON");
    command->footer(
        "Examples:\n"
        "  aerogel generate Z-Image-Turbo --prompt \"a cat in the snow\" -o cat.png --online W8A8_DYNAMIC\n"
        "  aerogel generate examples/shapes_dit --prompt \"red circle moves left\" -o video.mp4\n"
        "  aerogel generate examples/shapes_dit --prompt \"blue star turns\" -o v.gif -o v.safetensors \\\n"
        "      --quantized quantized/quant_model_description_w8a8_dynamic.json --sparse rf_v2 --sparsity 0.8 "
        "--json\n"
        "  aerogel generate examples/shapes_dit --prompt \"green triangle moves up\" -o v.gif --online "
        "W4A4_MXFP4 \\\n"
        "      --fallback 'blocks.0.*=W8A8_DYNAMIC'\n"
        "  aerogel generate examples/shapes_dit --prompt \"cyan star turns\" -o v.mp4 --profile "
        "profile.json");
    command->callback([flags] { run_generate(*flags); });
}

}  // namespace aerogel::cli
