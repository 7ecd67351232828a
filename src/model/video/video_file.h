// Reading and writing videos and pictures: .mp4, .gif, .jpg and .webp (by ffmpeg), PNG files, .safetensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "aerogel/tensor.h"
#include "aerogel/video.h"
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

constexpr double kLeastFrameRate = 0.1;
constexpr double kMostFrameRate = 240.0;

/// Throws InvalidArgument unless save_video knows what to do with `path` and such a video, IoError where the
/// program that it takes is not there.
void check_video_path(const std::filesystem::path& path, const VideoShape& video);

/// True when `path` names a video or a picture that this program can read as frames: a folder of PNG files,
/// or what it writes but .safetensors.
bool is_frames_path(const std::filesystem::path& path);
/// True for the kinds of file that say how many frames a second are shown: .mp4, .gif.
bool has_frame_rate(const std::filesystem::path& path);
/// Reads .mp4, .gif, a folder of PNG files (in the order of their names), or a picture as one frame.
Frames read_frames(const std::filesystem::path& path);
/// Reads a .png, .jpg or .webp file, upright (exif_orientation). IoError, InvalidArgument.
Picture read_picture(const std::filesystem::path& path);
/// Pixels of video f32 [3, frames, height, width] in [-1, 1], rounded to 8 bits.
Frames to_frames(const Tensor& video);

}  // namespace aerogel
