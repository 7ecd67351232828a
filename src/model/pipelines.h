// The pipelines of diffusers that Aerogel runs, by the class that model_index.json names: what each does
// around its transformer. A pipeline's text is in src/model/text/prompt_encoder.h, its decoder in
// src/model/vae.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/json.h"

namespace aerogel {

/// How the velocities with and without the caption, v and n, become one.
enum class GuidanceRule : std::uint8_t {
    plain,        ///< n + scale (v - n); a scale of 1 is none
    above_plain,  ///< v + scale (v - n); a scale of 0 is none
    rescaled      ///< as plain, then every token gets the norm that it has in v
};

/// How a scheduler with use_dynamic_shifting gets its shift from the number of tokens.
enum class ShiftRule : std::uint8_t {
    none,      ///< the pipeline gives the scheduler no mu
    linear,    ///< mu lies on the line through (base_image_seq_len, base_shift) and (max_image_seq_len,
               ///< max_shift)
    empirical  ///< mu as fitted for FLUX.2 (compute_empirical_mu), which looks at the number of steps too
};

/// What is made unless the folder or the caller says otherwise, in pixels.
struct PipelineDefaults {
    int frames = 1;
    int height = 1024;
    int width = 1024;
    int steps = 50;
    double guidance = 1.0;
    double frames_per_second = 16.0;
    bool can_guide = true;  ///< false: distilled
};

struct PipelineRow {
    std::string_view class_name;
    PipelineDefaults defaults;
    GuidanceRule guidance = GuidanceRule::plain;
    ShiftRule shift = ShiftRule::none;
    bool even_levels = false;  ///< NoiseLevels::even
    int token_side = 2;        ///< latents along the side of a token
    std::string_view negative_prompt = "";
    bool from_image = false;  ///< the transformer is told frames beside the noise: a picture must be given
    /// Changes `defaults` by what model_index.json tells; may be null.
    void (*adjust)(const JsonNode& index, PipelineDefaults& defaults) = nullptr;
};

std::span<const PipelineRow> pipelines();

/// The row of model_index.json. Unsupported, naming those that are known, for another class.
const PipelineRow& pipeline_of(const JsonNode& index);

}  // namespace aerogel
