// Reading and writing videos and pictures: .mp4, .gif, .jpg and .webp (by ffmpeg), PNG files, .safetensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "aerogel/tensor.h"
#include "model/video/png_file.h"

namespace aerogel {

/// 8-bit RGB frames: pixels[((f * height + y) * width + x) * 3 + channel].
struct Frames {
    std::int64_t count = 0;
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::vector<std::uint8_t> pixels;
};

/// What is to be written.
struct VideoShape {
    std::int64_t channels = 3;
    std::int64_t frames = 1;
};

/// Throws InvalidArgument unless write_video knows what to do with `path` and such a video.
void check_video_path(const std::filesystem::path& path, const VideoShape& video);

struct WriteVideoOptions {
    double frames_per_second = 8.0;
    /// How it was made, for people: the text "parameters" of PNG files, the comment of .mp4.
    std::string parameters = {};
};

/// Writes video f32 [channels, frames, height, width] by the ending of `path`: .png, .jpg or .webp for one
/// frame, .mp4 (H.264), .gif, .safetensors (tensor "video", exact), or no ending: a folder frame_0000.png ...
/// Pixels are clamped from [-1, 1].
void write_video(const std::filesystem::path& path, const Tensor& video,
                 const WriteVideoOptions& options = {});

/// True when `path` names a video this program can read as frames (.mp4, .gif, a folder of PNG files).
bool is_frames_path(const std::filesystem::path& path);
/// Reads .mp4, .gif or a folder of PNG files (in the order of their names).
Frames read_frames(const std::filesystem::path& path);
/// Reads a .png, .jpg or .webp file. IoError, InvalidArgument.
Picture read_picture(const std::filesystem::path& path);
/// Pixels of video f32 [3, frames, height, width] in [-1, 1], rounded to 8 bits.
Frames to_frames(const Tensor& video);

}  // namespace aerogel
