// Registration of the flags, and the settings they make.
#include "cli/sampling_flags.h"

#include <cstdint>

#include "cli/arguments.h"

namespace aerogel::cli {

void add_sampling_flags(CLI::App& command, SamplingFlags& flags, const std::string& group) {
    SamplingOptions& options = flags.options;
    const auto in_group = [&](CLI::Option* option) {
        if (!group.empty()) option->group(group);
        return option;
    };
    const auto add = [&](const char* name, auto& value, const char* text) {
        return in_group(command.add_option(name, value, text));
    };
    add("--steps", options.steps, "Sampling steps")->check(whole_number(1, kMostSteps));
    add("--seed", options.seed, "Seed of the noise; with several videos, each takes the next seed")
        ->capture_default_str()
        ->check(seed_number());
    add("--frames", options.frames, "Frames of the video");
    add("--size", flags.size, "WIDTHxHEIGHT of the picture or video");
    add("--guidance", options.guidance, "Classifier-free guidance scale (1: none; Z-Image: 0: none)")
        ->check(any_real_number());
    add("--guidance-2", options.guidance_2, "Guidance of the second expert (default: --guidance)")
        ->check(any_real_number());
    add("--shift", options.shift, "Shift of the flow-matching schedule")->check(any_real_number());
    add("--sampler", flags.sampler, "Sampler: euler or unipc");
    // Not add_flag(..., optional): that one begins with false.
    in_group(command.add_flag_function(
                 "--image-first,!--no-image-first",
                 [&options](std::int64_t count) { options.image_first = count > 0; },
                 "Make the first frame from the caption on its own, then the other frames from it"))
        ->disable_flag_override();
    add("--stagger", options.stagger,
        "Start the frames one after the other, the last one after this share of the steps (0: together)")
        ->check(any_real_number());
}

SamplingOptions sampling_options(std::string_view op, const SamplingFlags& flags) {
    SamplingOptions options = flags.options;
    if (!flags.size.empty()) {
        const VideoSize size = parse_video_size(op, flags.size);
        options.width = size.width;
        options.height = size.height;
    }
    if (!flags.sampler.empty()) options.sampler = sampler_kind_from(flags.sampler);
    return options;
}

}  // namespace aerogel::cli
