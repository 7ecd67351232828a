// What is wrong with a call is found by its options and the configs of the folder.
#include "model/generate_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aerogel/error.h"
#include "model/frame_sampler.h"
#include "model/image/frame_condition.h"
#include "model/sampling_run.h"
#include "model/slots.h"
#include "model/text/unicode.h"
#include "model/video_shape.h"
#include "sparse/check.h"

namespace aerogel {
namespace {

// Blocks that are not there are a mistake, and so is asking for sparse attention nowhere. That a short trial
// ends before start_step is none.
void check_some_calls(const SparseConfig& sparse, const TransformerConfig& config) {
    for (const int block : sparse.skip_layers) {
        if (block >= 0 && block < config.num_layers) continue;
        throw InvalidArgument(fmt::format("[generate] skip_layers must be blocks from 0 to {}, got {}",
                                          config.num_layers - 1, block));
    }
    for (int block = 0; block < config.num_layers; ++block)
        if (sparse.is_sparse(block, std::max(sparse.start_step, 0))) return;
    throw InvalidArgument(fmt::format(
        "[generate] no attention would be sparse: start_step = {} and end_step = {} (-1: never), {} of {} "
        "blocks in skip_layers",
        sparse.start_step, sparse.end_step, sparse.skip_layers.size(), config.num_layers));
}

// A call that stays dense for many steps would find these out late.
void check_sparse(const SparseConfig& sparse, const TransformerConfig& config, Device device) {
    const SparsePattern& pattern = sparse.pattern;
    if (pattern.type == "none") return;
    if (sparse.start_step < 0 || sparse.end_step < -1) {
        throw InvalidArgument(fmt::format(
            "[generate] start_step must be at least 0 and end_step at least -1 (never), got {} and {}",
            sparse.start_step, sparse.end_step));
    }
    if (sparse.mask_refresh_steps < 1) {
        throw InvalidArgument(fmt::format("[generate] mask_refresh_steps must be at least 1, got {}",
                                          sparse.mask_refresh_steps));
    }
    if (sparse.profile && pattern.type != "rf_v1")
        throw InvalidArgument(
            fmt::format("[generate] a profile has the head types of rf_v1, got {}", pattern.type));
    check_settings(pattern, sparse_options(sparse.format));
    if (pattern.centroids && device != Device::cpu) {
        throw Unsupported(
            fmt::format("[generate] centroids of skipped blocks are for the CPU, the transformer is on {}",
                        device.describe()));
    }
    for (int block = 0; sparse.profile && block < config.num_layers; ++block)
        if (sparse.is_sparse(block, -1)) pinned_types(*sparse.profile, block, -1, config.num_attention_heads);
    check_some_calls(sparse, config);
}

void check_prompt(const std::string& prompt, const char* name) {
    const std::size_t valid = valid_utf8(prompt);
    if (valid == prompt.size()) return;
    throw InvalidArgument(fmt::format("[generate] {} must be UTF-8, got the byte 0x{:02X} at {}", name,
                                      static_cast<unsigned char>(prompt[valid]), valid));
}

void check_embeddings(const Tensor& given, const char* name, std::int64_t text_dim) {
    if (!given.defined()) return;
    const Shape& shape = given.shape();
    const bool fits = shape.size() == 3 && shape[0] == 1 && shape[1] > 0 && shape[2] == text_dim;
    if (fits && given.dtype() == DType::f32) return;
    throw InvalidArgument(
        fmt::format("[generate] {} must be f32[1,*,{}], got {}", name, text_dim, given.describe()));
}

// How the video begins.
void check_first_frame(const GenerateOptions& call, const CallOf& of) {
    if (of.vae == nullptr) return;
    const bool begins = !call.image.empty() || call.first_frame.defined();
    if (begins && !of.vae->video)
        throw InvalidArgument("[generate] this model makes pictures: a first frame is for models of videos");
    if (!call.image.empty() && !of.folder.joins_pictures() && !of.folder.expand_timesteps) {
        throw InvalidArgument(
            "[generate] this model is not made to begin with a picture (image): that takes an image-to-video "
            "model, or expand_timesteps in model_index.json");
    }
    if (!of.vae->video && (*call.sampling.image_first || *call.sampling.stagger > 0.0)) {
        throw InvalidArgument(
            "[generate] this model makes pictures: image_first and stagger are for models of videos");
    }
}

}  // namespace

void check_options(const GenerateOptions& call, const CallOf& of) {
    const PipelineFolder& folder = of.folder;
    const SamplingOptions& sampling = call.sampling;
    if (call.preview_every < 1) {
        throw InvalidArgument(
            fmt::format("[generate] preview_every must be at least 1, got {}", call.preview_every));
    }
    if (sampling.guidance_2 && !folder.experts.boundary_ratio) {
        throw InvalidArgument(
            "[generate] guidance_2 is of a second expert, and this pipeline has one transformer");
    }
    if (!folder.defaults.can_guide && folder.guides(sampling)) {
        throw InvalidArgument(fmt::format("[generate] this model is distilled and takes no guidance, got {}",
                                          *sampling.guidance));
    }
    check_first_frame(call, of);
    check_prompt(call.prompt, "prompt");
    check_prompt(call.negative_prompt, "negative_prompt");
    if (call.sparse) check_sparse(*call.sparse, of.config, of.device);
    check_embeddings(call.prompt_embeds, "prompt_embeds", of.config.text_dim);
    check_embeddings(call.negative_prompt_embeds, "negative_prompt_embeds", of.config.text_dim);
    for (const auto& guidance : {sampling.guidance, sampling.guidance_2}) {
        if (guidance && !std::isfinite(*guidance))
            throw InvalidArgument(fmt::format("[generate] guidance must be a number, got {}", *guidance));
    }
    if (!(*sampling.stagger >= 0.0) || *sampling.stagger >= 1.0) {
        throw InvalidArgument(
            fmt::format("[generate] stagger must be at least 0 and less than 1, got {}", *sampling.stagger));
    }
}

// Channels, noise levels and frames are looked at by what will take them, on a sample of nothing.
void check_sample(const GenerateOptions& call, const CallOf& of, bool picture) {
    const SamplingOptions& sampling = call.sampling;
    const std::int64_t patch_frames = of.config.patch_size[0];
    const Shape size = sample_size(sampling, of.vae, of.config.patch_size);
    check_pixel_memory(sampling);
    const bool joined = picture && of.folder.joins_pictures();
    check_channels(of.config, of.vae, joined ? condition_channels(*of.vae) : 0);
    GenerateOptions trial = call;
    const bool alone = *sampling.image_first && size[0] > patch_frames && !joined;
    if ((picture && !joined) || (alone && !call.first_frame.defined()))
        trial.first_frame = Tensor(DType::f32, {of.config.out_channels, patch_frames, size[1], size[2]});
    const FrameSampler frames(of.config, trial, run_levels(of.folder, sampling),
                              Tensor(DType::f32, {1, of.config.out_channels, size[0], size[1], size[2]}));
}

}  // namespace aerogel
