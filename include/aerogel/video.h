// Videos and pictures as files that people can look at.
// layer: model
#pragma once

#include <filesystem>
#include <string>

#include "aerogel/tensor.h"

namespace aerogel {

struct SaveVideoOptions {
    double frames_per_second = 8.0;  ///< of .mp4 and .gif: from 0.1 to 240
    /// How it was made, for people: the text "parameters" of PNG files, the comment of .mp4.
    std::string parameters = {};
};

/// Writes video f32 [channels, frames, height, width] (GenerateResult::video) by the ending of `path`: .png,
/// .jpg or .webp for one frame, .mp4 (H.264), .gif, .safetensors (tensor "video", exact), or no ending: a
/// folder frame_0000.png ... Pixels are clamped to [-1, 1], NaN is black. All but PNG and safetensors need
/// the program ffmpeg. Folders that are missing are made; the file appears when it is complete. IoError;
/// InvalidArgument for another ending and a video that it cannot hold.
void save_video(const std::filesystem::path& path, const Tensor& video, const SaveVideoOptions& options = {});

}  // namespace aerogel
