// FrameSampler: groups of frames, each with its own sampler. Frames at noise levels of their own follow
// Diffusion Forcing (Chen et al., arXiv 2407.01392), in the rolling order of SkyReels-V2 (arXiv 2504.13074,
// section 3.3).
#include "model/frame_sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "aerogel/error.h"
#include "core/views.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

// Frames first .. first + count - 1 of a contiguous sample [1, channels, frames, height, width].
template <typename View>
View frames_of(const View& sample, std::int64_t first, std::int64_t count) {
    const std::int64_t width = sample.dim(4), frame = sample.dim(3) * width, channel = sample.dim(2) * frame;
    return part_of(sample, first * frame, {1, sample.dim(1), count, sample.dim(3), width},
                   {sample.dim(1) * channel, channel, frame, width, 1});
}

Tensor copied(const TensorView& view) {
    Tensor dense(DType::f32, view.shape, view.device);
    copy(view, dense);
    return dense;
}

}  // namespace

FrameSampler::FrameSampler(const TransformerConfig& config, const GenerateOptions& options,
                           const NoiseLevels& levels, Tensor sample)
    : sample_(std::move(sample)),
      patch_frames_(config.patch_size[0]),
      tokens_per_patch_(sample_.dim(3) / config.patch_size[1] * (sample_.dim(4) / config.patch_size[2])) {
    if (options.first_frame.defined()) give(options.first_frame);
    add_moving_frames(options.sampling, levels);
    if (groups_.size() > 1 && !config.expand_timesteps) {
        throw Unsupported(
            "[generate] this model takes one timestep per video and makes all frames together: "
            "first_frame, image_first and stagger are not supported");
    }
}

void FrameSampler::give(const Tensor& frame) {
    const Shape wanted = {sample_.dim(1), patch_frames_, sample_.dim(3), sample_.dim(4)};
    if (frame.dtype() != DType::f32 || frame.shape() != wanted) {
        throw InvalidArgument(
            fmt::format("[generate] first_frame must be f32{}, got {}", to_string(wanted), frame.describe()));
    }
    copy(frame.to(sample_.device()).reshaped({1, wanted[0], wanted[1], wanted[2], wanted[3]}),
         frames_of(sample_.mutable_view(), 0, patch_frames_));
    groups_.push_back({0, patch_frames_, 0, nullptr});
}

void FrameSampler::add_moving_frames(const SamplingOptions& options, const NoiseLevels& levels) {
    const std::int64_t given = groups_.empty() ? 0 : patch_frames_;
    const std::int64_t moving = sample_.dim(2) - given;
    if (moving == 0) return;
    // The last frame starts at step `last`, the others evenly before it.
    const int last = moving == patch_frames_ ? 0 : static_cast<int>(*options.stagger * *options.steps);
    const std::int64_t size = last == 0 ? moving : patch_frames_;
    NoiseLevels own = levels;
    own.steps = levels.steps - last;
    for (std::int64_t at = 0; at < moving; at += size) {
        const auto start = last == 0 ? 0 : static_cast<int>(last * at / (moving - patch_frames_));
        groups_.push_back({given + at, size, start, Sampler::create(*options.sampler, own)});
    }
}

float FrameSampler::timestep(const Group& group, int step) const {
    if (!group.sampler) return 0.0F;
    const std::vector<float>& levels = group.sampler->timesteps();
    const int own = std::max(step - group.start, 0);
    return own < static_cast<int>(levels.size()) ? levels[static_cast<std::size_t>(own)] : 0.0F;
}

double FrameSampler::timestep(int step, std::int64_t frame) const {
    const auto group = std::find_if(groups_.begin(), groups_.end(), [&](const Group& candidate) {
        return frame < candidate.first + candidate.count;
    });
    return double{timestep(*group, step)};
}

Tensor FrameSampler::timesteps(int step) const {
    const bool same = groups_.size() == 1;
    const std::int64_t patches = sample_.dim(2) / patch_frames_;
    std::vector<float> steps;
    for (const Group& group : groups_) {
        const std::int64_t tokens = same ? 1 : group.count / patch_frames_ * tokens_per_patch_;
        steps.insert(steps.end(), static_cast<std::size_t>(tokens), timestep(group, step));
    }
    return Tensor::of(steps, same ? Shape{1} : Shape{1, patches * tokens_per_patch_});
}

void FrameSampler::step(int step, const Tensor& velocity) {
    for (const Group& group : groups_) {
        const int own = step - group.start;
        if (!group.sampler || own < 0 || own >= static_cast<int>(group.sampler->timesteps().size())) continue;
        const MutableView place = frames_of(sample_.mutable_view(), group.first, group.count);
        Tensor frames = copied(place);
        group.sampler->step(own, copied(frames_of(velocity.view(), group.first, group.count)), frames);
        copy(frames, place);
    }
}

}  // namespace aerogel
