// aerogel generate MODEL --prompt ...: from a caption to a video file.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "aerogel/error.h"
#include "aerogel/pipeline.h"
#include "aerogel/safetensors.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/generate_report.h"
#include "cli/output.h"
#include "cli/quantization_flags.h"
#include "cli/sampling_flags.h"
#include "cli/sparse_flags.h"
#include "core/paths.h"
#include "model/video/video_file.h"

namespace aerogel::cli {
namespace {

struct GenerateFlags {
    std::string model;
    std::string prompt;
    std::string negative_prompt;
    std::string prompt_embeds;
    QuantizationFlags quantization;
    SparseFlags sparse;
    SamplingFlags sampling;
    double frames_per_second = 8.0;
    std::string first_frame;
    std::vector<std::string> outputs;
    bool json = false;
};

GenerateOptions to_options(const Transformer& model, const GenerateFlags& flags) {
    GenerateOptions options;
    options.prompt = flags.prompt;
    options.negative_prompt = flags.negative_prompt;
    options.sampling = sampling_options("generate", flags.sampling);
    if (!flags.prompt_embeds.empty()) {
        const auto file = SafetensorsFile::open(flags.prompt_embeds);
        options.prompt_embeds = file.tensor("prompt_embeds").to(DType::f32);
        if (file.contains("negative_prompt_embeds")) {
            options.negative_prompt_embeds = file.tensor("negative_prompt_embeds").to(DType::f32);
        }
    }
    if (!flags.first_frame.empty())
        options.first_frame = SafetensorsFile::open(flags.first_frame).tensor("first_frame").to(DType::f32);
    options.timestep_policy = timestep_policy(model, flags.quantization);
    options.sparse = sparse_config(flags.sparse);
    return options;
}

// Parents are made, so an output may be a file in a folder that is not there yet.
void check_outputs(const GenerateFlags& flags) {
    const std::vector<std::filesystem::path> inputs = {flags.prompt_embeds, flags.first_frame,
                                                       flags.sparse.profile, flags.quantization.files};
    for (auto output = flags.outputs.begin(); output != flags.outputs.end(); ++output) {
        const std::filesystem::path path = *output;
        if (std::find(flags.outputs.begin(), output, *output) != output)
            throw InvalidArgument(fmt::format("[generate] the output '{}' is given twice", *output));
        const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
        if (path.extension().empty()) {
            check_output_folder("generate", path);
        } else if (is_folder(folder)) {
            check_output_file("generate", path, inputs);
        } else {
            check_output_folder("generate", folder);
        }
    }
}

void run_generate(const GenerateFlags& flags) {
    check_outputs(flags);
    GenerateReport report;
    Pipeline pipeline = Pipeline::load(flags.model);
    for (const auto& output : flags.outputs)
        check_video_path(output, pipeline.transformer().config().out_channels);
    report.float_bytes = pipeline.transformer().weight_bytes();
    report.quantized = quantize_as_told(pipeline.transformer(), flags.quantization);
    report.weight_bytes = pipeline.transformer().weight_bytes();
    report.options = pipeline.with_defaults(to_options(pipeline.transformer(), flags));
    {
        Progress progress("generate", *report.options.sampling.steps);
        report.options.progress = [&](int step, int, double seconds) {
            progress.update(step, show_seconds(seconds) + "/step");
            return !interrupted();
        };
        report.result = pipeline.generate(report.options);
    }
    for (const auto& output : flags.outputs)
        write_video(output, report.result.video, flags.frames_per_second);
    report.outputs = flags.outputs;
    report.model = flags.model;
    report.description = flags.quantization.files;
    report.online = flags.quantization.online.quant_type;
    report.peak_memory_bytes = peak_memory_bytes();
    if (flags.json) {
        print_json(to_json(report));
    } else {
        print_text(to_text(report));
    }
}

}  // namespace

void add_generate(CLI::App& app) {
    auto* command =
        app.add_subcommand("generate", "Make a video from a caption: float or quantized, dense or sparse");
    auto flags = std::make_shared<GenerateFlags>();
    command->add_option("MODEL", flags->model, "Pipeline folder (transformer/, text_encoder/ ...)")
        ->required();
    command->add_option("--prompt", flags->prompt, "The caption");
    command->add_option("--negative-prompt", flags->negative_prompt,
                        "Caption to steer away from (default: none)");
    command->add_option("--prompt-embeds", flags->prompt_embeds,
                        "A .safetensors file with prompt_embeds [1,len,dim] (and negative_prompt_embeds), "
                        "instead of --prompt");
    add_quantization_flags(*command, flags->quantization);
    add_sparse_flags(*command, flags->sparse);
    add_sampling_flags(*command, flags->sampling);
    command->add_option(
        "--first-frame", flags->first_frame,
        "A .safetensors file with first_frame [channels,1,height,width]: the video continues it");
    command->add_option("--fps", flags->frames_per_second, "Frames per second of .mp4 and .gif")
        ->capture_default_str()
        ->check(real_number(0.1, 240.0));
    command
        ->add_option("-o,--output", flags->outputs,
                     "Where to write the video: a .mp4, .gif or .safetensors (exact values) file, or a "
                     "folder for PNG files; "
                     "repeatable")
        ->required();
    command->add_flag("--json", flags->json, "Print the report as JSON");
    command->footer(
        "Examples:\n"
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
