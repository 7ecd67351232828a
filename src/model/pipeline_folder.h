// What a pipeline folder says about generation: its class, "boundary_ratio" and our own "generation" entry of
// model_index.json, and the noise levels of scheduler/scheduler_config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "aerogel/pipeline.h"
#include "model/experts.h"
#include "model/pipelines.h"

namespace aerogel {

/// A shift of the noise levels that grows with the number of tokens ("use_dynamic_shifting").
struct DynamicShift {
    double base_shift = 0.5;
    double max_shift = 1.15;
    double base_tokens = 256;
    double max_tokens = 4096;
    bool exponential = true;  ///< the shift is e^mu, else mu
};

/// What a transformer is told of pictures by CLIP, by the keys of its config.json.
struct SeenPictures {
    std::optional<std::int64_t> image_dim;          ///< nullopt: it is told nothing
    std::optional<std::int64_t> pos_embed_seq_len;  ///< tokens of a first and a last picture; nullopt: of one
};

struct PipelineFolder {
    const PipelineRow* row = nullptr;  ///< null where no model_index.json names a class
    PipelineDefaults defaults;         ///< the row's, adjusted
    /// A given frame keeps timestep 0 (Wan 2.2's small model), instead of being told beside the noise.
    bool expand_timesteps = false;
    bool has_vae = false;      ///< sizes are pixels, else those of the transformer's sample
    SamplingOptions sampling;  ///< unset fields are those the folder says nothing about
    std::optional<DynamicShift> dynamic_shift;
    std::optional<double> terminal;  ///< NoiseLevels::terminal
    Experts experts;
    std::string why_no_text;           ///< empty, or why prompts cannot be encoded
    std::string why_no_image_encoder;  ///< the same of pictures
    SeenPictures seen;

    /// InvalidArgument on a wrong value, Unsupported on a pipeline, a scheduler or a setting of it that
    /// Aerogel does not have, IoError on another component that is listed and missing, and on a scheduler
    /// that is not there and whose noise levels are not those of Wan.
    static PipelineFolder read(const std::filesystem::path& folder);
    /// A given picture becomes channels beside the noise.
    bool joins_pictures() const { return row != nullptr && row->from_image && !expand_timesteps; }
    GuidanceRule guidance_rule() const { return row != nullptr ? row->guidance : GuidanceRule::plain; }
    /// Whether a pass without the caption runs, where defaults are filled in.
    bool guides(const SamplingOptions& options) const;
    /// The shift for so many tokens of one frame and steps; 3 where nothing is said.
    double shift(double tokens, int steps) const;
};

}  // namespace aerogel
