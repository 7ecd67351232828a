// Pictures as the arrays that models take.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>

#include "aerogel/tensor.h"
#include "model/video/png_file.h"

namespace aerogel {

/// f32 [1, 3, 1, height, width] in [-1, 1], resized (Lanczos) where the picture has another size: what
/// diffusers' VideoProcessor makes of an image. On the CPU.
Tensor pixels_of(const Picture& picture, std::int64_t height, std::int64_t width);

/// preprocessor_config.json of transformers' CLIPImageProcessor: the shorter side resized (bicubic), the
/// middle cut out, colors normalised.
struct ClipImageInput {
    std::int64_t shortest_edge = 224;
    std::int64_t crop_height = 224, crop_width = 224;
    double rescale_factor = 1.0 / 255.0;
    std::array<float, 3> mean = {0.48145466F, 0.4578275F, 0.40821073F};
    std::array<float, 3> std = {0.26862954F, 0.26130258F, 0.27577711F};

    /// InvalidArgument for wrong values and for steps that are switched off or done otherwise.
    static ClipImageInput read(const std::filesystem::path& path);
    /// f32 [pictures, 3, crop_height, crop_width], on the CPU. InvalidArgument for pictures without pixels.
    Tensor pixels(std::span<const Picture> pictures) const;
};

}  // namespace aerogel
