// Frames to and from files. Every file is written under a temporary name, synced and renamed.
#include "model/video/video_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "core/atomic_file.h"
#include "core/paths.h"
#include "model/video/png_file.h"
#include "model/video/subprocess.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

constexpr const char* kEndings =
    "expected .mp4, .gif, .safetensors, or a folder name without an ending for PNG files";

std::size_t frame_bytes(const Frames& frames) {
    return static_cast<std::size_t>(frames.height * frames.width * 3);
}

void encode_with_ffmpeg(const fs::path& path, const Frames& frames, double frames_per_second) {
    AtomicFile file(path);
    std::vector<std::string> arguments = {"ffmpeg",   "-v",
                                          "error",    "-y",
                                          "-f",       "rawvideo",
                                          "-pix_fmt", "rgb24",
                                          "-s",       fmt::format("{}x{}", frames.width, frames.height),
                                          "-r",       fmt::format("{}", frames_per_second),
                                          "-i",       "-"};
    const std::vector<std::string> mp4 = {"-c:v",     "libx264", "-preset",   "veryfast",
                                          "-crf",     "12",      "-vf",       "pad=ceil(iw/2)*2:ceil(ih/2)*2",
                                          "-pix_fmt", "yuv420p", "-movflags", "+faststart",
                                          "-f",       "mp4"};
    const std::vector<std::string> gif = {"-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none",
                                          "-f", "gif"};
    const auto& codec = path.extension() == ".gif" ? gif : mp4;
    arguments.insert(arguments.end(), codec.begin(), codec.end());
    arguments.push_back("file:" + file.temporary_path().string());
    SubprocessWriter ffmpeg(arguments);
    ffmpeg.write(std::as_bytes(std::span(frames.pixels)));
    ffmpeg.finish();
    file.commit();
}

void write_png_folder(const fs::path& folder, const Frames& frames) {
    make_folders(folder);
    for (std::int64_t f = 0; f < frames.count; ++f) {
        AtomicFile file(folder / fmt::format("frame_{:04}.png", f));
        write_png(file.temporary_path(),
                  frames.pixels.data() + static_cast<std::size_t>(f) * frame_bytes(frames), frames.height,
                  frames.width);
        file.commit();
    }
}

Frames read_png_folder(const fs::path& folder) {
    std::vector<fs::path> files;
    for (const fs::path& path : folder_entries(folder)) {
        if (path.extension() == ".png") files.push_back(path);
    }
    if (files.empty()) throw InvalidArgument("[video] no .png files in folder " + folder.string());
    Frames frames;
    for (const auto& file : files) {
        const Picture picture = read_png(file);
        if (frames.count != 0 && (picture.height != frames.height || picture.width != frames.width)) {
            throw InvalidArgument(fmt::format("[video] {} is {}x{}, the frames before it {}x{}",
                                              file.string(), picture.width, picture.height, frames.width,
                                              frames.height));
        }
        frames.height = picture.height;
        frames.width = picture.width;
        frames.pixels.insert(frames.pixels.end(), picture.pixels.begin(), picture.pixels.end());
        ++frames.count;
    }
    return frames;
}

Frames decode_with_ffmpeg(const fs::path& path) {
    if (!path_exists(path)) throw IoError("[video] no such file: " + path.string());
    const std::string name = "file:" + path.string();
    const auto probe =
        nlohmann::json::parse(run_and_read({"ffprobe", "-v", "error", "-select_streams", "v:0",
                                            "-show_entries", "stream=width,height", "-of", "json", name}));
    if (!probe.contains("streams") || probe["streams"].empty()) {
        throw InvalidArgument("[video] " + path.string() + " has no video stream");
    }
    Frames frames;
    frames.width = probe["streams"][0].value("width", 0);
    frames.height = probe["streams"][0].value("height", 0);
    const std::string raw = run_and_read({"ffmpeg", "-v", "error", "-i", name, "-f", "rawvideo", "-pix_fmt",
                                          "rgb24", "-vsync", "passthrough", "-"});
    frames.pixels.assign(raw.begin(), raw.end());
    if (frame_bytes(frames) == 0 || raw.size() % frame_bytes(frames) != 0) {
        throw InvalidArgument(
            fmt::format("[video] {} decodes to {} bytes, not a multiple of {}x{} RGB frames", path.string(),
                        raw.size(), frames.width, frames.height));
    }
    frames.count = static_cast<std::int64_t>(raw.size() / frame_bytes(frames));
    return frames;
}

}  // namespace

void check_video_path(const fs::path& path, std::int64_t channels) {
    const std::string ending = path.extension().string();
    if (ending == ".safetensors") return;
    if (ending != ".mp4" && ending != ".gif" && !ending.empty()) {
        throw InvalidArgument(fmt::format("[video] cannot write '{}': {}", path.string(), kEndings));
    }
    if (channels != 3) {
        throw InvalidArgument(
            fmt::format("[video] '{}' needs 3 colour channels, the model makes {} (latents for a separate "
                        "decoder): write .safetensors instead",
                        path.string(), channels));
    }
}

Frames to_frames(const Tensor& video) {
    if (video.shape().size() != 4 || video.dim(0) != 3) {
        throw InvalidArgument("[video] expected f32[3,frames,height,width], got " + video.describe());
    }
    Frames frames{video.dim(1), video.dim(2), video.dim(3), {}};
    const float* values = video.as<float>();
    const std::int64_t plane = frames.count * frames.height * frames.width;
    frames.pixels.resize(static_cast<std::size_t>(3 * plane));
    for (std::int64_t i = 0; i < plane; ++i) {
        for (std::int64_t channel = 0; channel < 3; ++channel) {
            const float value = (values[channel * plane + i] + 1.0F) * 127.5F;
            const float clamped = value > 0.0F ? std::min(value, 255.0F) : 0.0F;  // NaN becomes 0
            frames.pixels[static_cast<std::size_t>(3 * i + channel)] =
                static_cast<std::uint8_t>(std::lrint(clamped));
        }
    }
    return frames;
}

void write_video(const fs::path& path, const Tensor& video, double frames_per_second) {
    check_video_path(path, video.dim(0));
    if (path.has_parent_path()) make_folders(path.parent_path());
    if (path.extension() == ".safetensors") return save_safetensors(path, {{"video", video}});
    const Frames frames = to_frames(video);
    if (path.extension().empty()) return write_png_folder(path, frames);
    encode_with_ffmpeg(path, frames, frames_per_second);
}

bool is_frames_path(const fs::path& path) {
    return path.extension() == ".mp4" || path.extension() == ".gif" || is_folder(path);
}

Frames read_frames(const fs::path& path) {
    return is_folder(path) ? read_png_folder(path) : decode_with_ffmpeg(path);
}

}  // namespace aerogel
