// The table of pipelines. Sizes, steps and guidance are those of the model cards, the rest that of diffusers'
// pipeline classes.
#include "model/pipelines.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <vector>

#include "aerogel/error.h"
#include "core/text.h"

namespace aerogel {
namespace {

bool says(const JsonNode& index, const char* key) {
    return index.has(key) && index.at(key).flag();
}

// Wan 2.2's small model makes larger videos at 24 frames per second.
void adjust_wan(const JsonNode& index, PipelineDefaults& defaults) {
    if (!says(index, "expand_timesteps")) return;
    defaults.frames = 121;
    defaults.height = 704;
    defaults.width = 1280;
    defaults.frames_per_second = 24.0;
}

void adjust_flux2_klein(const JsonNode& index, PipelineDefaults& defaults) {
    if (!says(index, "is_distilled")) return;
    defaults.can_guide = false;
    defaults.steps = 4;
    defaults.guidance = 1.0;
}

constexpr PipelineDefaults kWanVideo = {
    .frames = 81, .height = 480, .width = 832, .steps = 50, .guidance = 5.0};

constexpr std::array kPipelines = {
    PipelineRow{.class_name = "WanPipeline", .defaults = kWanVideo, .adjust = adjust_wan},
    PipelineRow{.class_name = "WanImageToVideoPipeline",
                .defaults = kWanVideo,
                .from_image = true,
                .adjust = adjust_wan},
    // Of the distilled model, Z-Image-Turbo; the other one wants --steps 50 --guidance 4.
    PipelineRow{.class_name = "ZImagePipeline",
                .defaults = {.steps = 9, .guidance = 0.0},
                .guidance = GuidanceRule::above_plain,
                .shift = ShiftRule::linear,
                .even_levels = true},
    PipelineRow{.class_name = "Flux2KleinPipeline",
                .defaults = {.guidance = 4.0},
                .shift = ShiftRule::empirical,
                .even_levels = true,
                .token_side = 1,
                .adjust = adjust_flux2_klein},
    PipelineRow{.class_name = "QwenImagePipeline",
                .defaults = {.guidance = 4.0},
                .guidance = GuidanceRule::rescaled,
                .shift = ShiftRule::linear,
                .even_levels = true,
                .negative_prompt = " "},
};

}  // namespace

std::span<const PipelineRow> pipelines() {
    return kPipelines;
}

const PipelineRow& pipeline_of(const JsonNode& index) {
    const std::string& name = index.at("_class_name").text();
    std::vector<std::string_view> known;
    for (const PipelineRow& row : kPipelines) {
        if (row.class_name == name) return row;
        known.push_back(row.class_name);
    }
    throw Unsupported(fmt::format("{}: the class {} is not supported, only {}", index.where(),
                                  in_quotes(name), fmt::join(known, ", ")));
}

}  // namespace aerogel
