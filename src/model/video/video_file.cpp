// Frames to and from files. Every file is written under a temporary name, synced and renamed.
#include "model/video/video_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "base/cancellation.h"
#include "core/atomic_file.h"
#include "core/input_file.h"
#include "core/output_file.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/video/orientation.h"
#include "model/video/png_file.h"
#include "model/video/subprocess.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

constexpr const char* kEndings =
    "expected .mp4, .gif, .safetensors, a folder name without an ending for PNG files, or .png, .jpg, .webp "
    "for one frame";

/// An ending that ffmpeg writes.
struct Encoding {
    std::string_view ending;
    bool picture;  ///< of one frame
    std::vector<std::string> arguments;
};

const std::vector<Encoding>& encodings() {
    static const std::vector<Encoding> kEncodings = {
        {".mp4",
         false,
         {"-c:v", "libx264", "-preset", "veryfast", "-crf", "12", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2",
          "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"}},
        {".gif", false, {"-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none", "-f", "gif"}},
        {".jpg",
         true,
         {"-c:v", "mjpeg", "-pix_fmt", "yuvj444p", "-q:v", "2", "-f", "image2", "-update", "1"}},
        {".webp", true, {"-c:v", "libwebp", "-quality", "92", "-f", "webp"}}};
    return kEncodings;
}

// Of one kind of file one ending.
std::string ending_of(const fs::path& path) {
    const std::string ending = extension_of(path);
    return ending == ".jpeg" ? ".jpg" : ending;
}

// Null where there is none of this ending.
const Encoding* encoding_of(const fs::path& path) {
    const std::string ending = ending_of(path);
    for (const Encoding& encoding : encodings()) {
        if (encoding.ending == ending) return &encoding;
    }
    return nullptr;
}

bool is_a_file_of_frames(const fs::path& path) {
    return encoding_of(path) != nullptr || has_extension(path, ".png") || has_extension(path, ".safetensors");
}

// What no video of today needs, checked before memory is taken.
constexpr std::int64_t kMostSide = 16384;
constexpr std::int64_t kMostBytes = std::int64_t{1} << 32U;  // of the 8-bit pixels of a video

std::int64_t frame_bytes(const Frames& frames) {
    return frames.height * frames.width * 3;
}

void encode_with_ffmpeg(const fs::path& path, const Frames& frames, const SaveVideoOptions& options) {
    AtomicFile file(path);
    std::vector<std::string> arguments = {"ffmpeg",   "-nostdin",
                                          "-v",       "error",
                                          "-xerror",  "-y",
                                          "-f",       "rawvideo",
                                          "-pix_fmt", "rgb24",
                                          "-s",       fmt::format("{}x{}", frames.width, frames.height),
                                          "-r",       fmt::format("{}", options.frames_per_second),
                                          "-i",       "-"};
    if (!options.parameters.empty()) {
        arguments.emplace_back("-metadata");
        arguments.push_back("comment=" + options.parameters);
    }
    const auto& codec = encoding_of(path)->arguments;
    arguments.insert(arguments.end(), codec.begin(), codec.end());
    arguments.push_back("file:" + file.temporary_path().string());
    Subprocess ffmpeg({.arguments = arguments, .reads = true});
    ffmpeg.write(std::as_bytes(std::span(frames.pixels)));
    ffmpeg.finish();
    if (std::error_code error; fs::file_size(file.temporary_path(), error) == 0 || error)
        throw IoError("[ffmpeg] ended without an error but wrote nothing to " + path.string());
    file.commit();
}

void write_png(const fs::path& path, const Frames& frames, std::int64_t frame,
               const std::string& parameters) {
    const auto first = frames.pixels.begin() + static_cast<std::ptrdiff_t>(frame * frame_bytes(frames));
    const Picture picture = {
        frames.height, frames.width, {first, first + static_cast<std::ptrdiff_t>(frame_bytes(frames))}};
    PictureTexts texts;
    if (!parameters.empty()) texts.emplace_back("parameters", parameters);
    write_file_atomically(path, png_bytes(picture, texts));
}

// Frames wait here, within the folder of the video, until all of them are on the disk: one that fills leaves
// the video that was there before.
class WaitingFrames {
  public:
    explicit WaitingFrames(const fs::path& video) : folder_(video / ".frames.tmp") {
        remove();  // those of a process that was killed
        make_folders(folder_);
    }
    ~WaitingFrames() { remove(); }
    WaitingFrames(const WaitingFrames&) = delete;
    WaitingFrames& operator=(const WaitingFrames&) = delete;

    const fs::path& folder() const { return folder_; }

  private:
    void remove() const {
        std::error_code ignored;
        fs::remove_all(folder_, ignored);
    }

    fs::path folder_;
};

void write_png_folder(const fs::path& folder, const Frames& frames, const std::string& parameters) {
    const auto name = [](std::int64_t frame) { return fmt::format("frame_{:04}.png", frame); };
    const WaitingFrames waiting(folder);
    for (std::int64_t f = 0; f < frames.count; ++f) {
        write_png(waiting.folder() / name(f), frames, f, parameters);
        stop_if_cancelled();
    }
    for (std::int64_t f = 0; f < frames.count; ++f) rename_file(waiting.folder() / name(f), folder / name(f));
    // Of a longer video that was here before.
    for (std::int64_t f = frames.count; path_exists(folder / name(f)); ++f) remove_file(folder / name(f));
    sync_folder_of(folder / name(0));
}

// What both programs may open: this one file, as what its name says. A playlist or list of files under the
// name of a video names other files and addresses, which its demuxer would open.
std::vector<std::string> input_arguments(const fs::path& path) {
    const std::string ending = ending_of(path);
    const char* format = ending == ".gif"    ? "gif"
                         : ending == ".jpg"  ? "jpeg_pipe"
                         : ending == ".webp" ? "webp_pipe"
                                             : "mov";
    return {"-protocol_whitelist", "file", "-f", format};
}

// The number behind "name=" in what ffprobe prints.
std::optional<std::int64_t> number_of(std::string_view printed, std::string_view name) {
    const std::size_t at = printed.find(name);
    if (at == printed.npos) return std::nullopt;
    const std::string_view digits = printed.substr(at + name.size());
    std::int64_t number = 0;
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    const bool ends = stop == digits.data() + digits.size() || *stop == '\n' || *stop == '\r';
    return error == std::errc() && ends ? std::optional(number) : std::nullopt;
}

void check_side(const fs::path& path, std::int64_t side) {
    if (side >= 1 && side <= kMostSide) return;
    throw InvalidArgument(fmt::format("[video] {}: width and height must be between 1 and {}, got {}{}",
                                      path.string(), kMostSide, side,
                                      side == 0 ? ": it is damaged, or not what its ending says" : ""));
}

void check_size(const fs::path& path, std::int64_t frames, std::int64_t frame_bytes) {
    if (frames <= kMostBytes / frame_bytes) return;
    throw InvalidArgument(fmt::format("[video] {}: decodes to more than {} of pixels, which is the limit",
                                      path.string(), show_bytes(static_cast<double>(kMostBytes))));
}

Frames read_png_folder(const fs::path& folder) {
    std::vector<fs::path> files;
    for (const fs::path& path : folder_entries(folder)) {
        if (has_extension(path, ".png")) files.push_back(path);
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
        check_size(folder, frames.count + 1, picture.height * picture.width * 3);
        frames.height = picture.height;
        frames.width = picture.width;
        frames.pixels.insert(frames.pixels.end(), picture.pixels.begin(), picture.pixels.end());
        ++frames.count;
    }
    return frames;
}

// Width and height, with a look at the number of frames where the file tells it.
Frames probe(const fs::path& path, const std::string& name) {
    std::vector<std::string> arguments = {"ffprobe", "-v", "error"};
    const auto input = input_arguments(path);
    arguments.insert(arguments.end(), input.begin(), input.end());
    for (const char* argument : {"-select_streams", "v:0", "-show_entries", "stream=width,height,nb_frames",
                                 "-of", "default=noprint_wrappers=1"})
        arguments.emplace_back(argument);
    arguments.push_back(name);
    const std::string printed = run_and_read(arguments, 1U << 20U);
    if (printed.empty()) throw InvalidArgument("[video] " + path.string() + " has no video stream");
    const auto width = number_of(printed, "width="), height = number_of(printed, "height=");
    if (!width || !height) {
        throw IoError(fmt::format("[ffprobe] width and height expected of {}, got '{}'", path.string(),
                                  one_line(printed)));
    }
    check_side(path, *width);
    check_side(path, *height);
    check_size(path, number_of(printed, "nb_frames=").value_or(0), *width * *height * 3);
    return {0, *height, *width, {}};
}

Frames decode_with_ffmpeg(const fs::path& path) {
    const InputFile checked(path, "video");
    const std::string name = "file:" + path.string();
    Frames frames = probe(path, name);
    std::vector<std::string> arguments = {"ffmpeg", "-nostdin", "-v", "error"};
    const auto input = input_arguments(path);
    arguments.insert(arguments.end(), input.begin(), input.end());
    for (const char* argument : {"-noautorotate", "-i"}) arguments.emplace_back(argument);
    arguments.push_back(name);
    for (const char* argument :
         {"-map", "0:v:0", "-f", "rawvideo", "-pix_fmt", "rgb24", "-vsync", "passthrough", "-"})
        arguments.emplace_back(argument);
    Subprocess ffmpeg({.arguments = arguments});
    const std::int64_t bytes = frame_bytes(frames);
    std::vector<std::byte> chunk(std::size_t{1} << 20U);
    while (const std::size_t got = ffmpeg.read(chunk)) {
        const auto* first = reinterpret_cast<const std::uint8_t*>(chunk.data());
        frames.pixels.insert(frames.pixels.end(), first, first + got);
        check_size(path, static_cast<std::int64_t>(frames.pixels.size()) / bytes, bytes);
    }
    ffmpeg.finish();
    frames.count = static_cast<std::int64_t>(frames.pixels.size()) / bytes;
    if (frames.count == 0 || frames.count * bytes != static_cast<std::int64_t>(frames.pixels.size())) {
        throw InvalidArgument(
            fmt::format("[video] {} decodes to {} bytes, not a multiple of {}x{} RGB frames", path.string(),
                        frames.pixels.size(), frames.width, frames.height));
    }
    return frames;
}

}  // namespace

void check_video_path(const fs::path& path, const VideoShape& video) {
    const std::string ending = ending_of(path);
    if (path.empty()) throw InvalidArgument("[video] the name of the video is empty");
    // ".gif" alone is the name of a folder, which nobody means.
    if (ending.empty() && is_a_file_of_frames("name" + path.filename().string())) {
        throw InvalidArgument(
            fmt::format("[video] cannot write '{}': there is no name before the ending", path.string()));
    }
    if (ending == ".safetensors") return;
    const Encoding* encoding = encoding_of(path);
    if (!ending.empty() && !is_a_file_of_frames(path)) {
        throw InvalidArgument(fmt::format("[video] cannot write '{}': {}", path.string(), kEndings));
    }
    if (encoding != nullptr) check_program("ffmpeg");
    if (video.channels != 3) {
        throw InvalidArgument(
            fmt::format("[video] '{}' needs 3 colour channels, the model makes {} (latents for a separate "
                        "decoder): write .safetensors instead",
                        path.string(), video.channels));
    }
    if (video.frames != 1 && (ending == ".png" || (encoding != nullptr && encoding->picture))) {
        throw InvalidArgument(
            fmt::format("[video] '{}' holds one frame, the video has {}: write .mp4, .gif, or a folder (a "
                        "name without an ending)",
                        path.string(), video.frames));
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

namespace {

void check_video(const fs::path& path, const Tensor& video, const SaveVideoOptions& options) {
    const Shape& shape = video.shape();
    if (!video.defined() || video.dtype() != DType::f32 || shape.size() != 4 || video.count() == 0) {
        throw InvalidArgument(
            fmt::format("[video] expected f32[channels,frames,height,width] with no axis of 0, got {}",
                        video.defined() ? video.describe() : "nothing"));
    }
    const double rate = options.frames_per_second;
    if (!(rate >= kLeastFrameRate && rate <= kMostFrameRate)) {
        throw InvalidArgument(fmt::format("[video] frames_per_second must be from {} to {}, got {}",
                                          kLeastFrameRate, kMostFrameRate, rate));
    }
    check_video_path(path, {shape[0], shape[1]});
}

}  // namespace

void save_video(const fs::path& path, const Tensor& video, const SaveVideoOptions& options) {
    check_video(path, video, options);
    const std::string ending = ending_of(path);
    NewFolders folders(ending.empty() ? path : path.parent_path());
    if (ending == ".safetensors") {
        save_safetensors(path, {{"video", video}});
    } else if (ending.empty()) {
        write_png_folder(path, to_frames(video), options.parameters);
    } else if (ending == ".png") {
        write_png(path, to_frames(video), 0, options.parameters);
    } else {
        encode_with_ffmpeg(path, to_frames(video), options);
    }
    folders.keep();
}

bool is_frames_path(const fs::path& path) {
    return is_folder(path) || (is_a_file_of_frames(path) && !has_extension(path, ".safetensors"));
}

Picture read_picture(const fs::path& path) {
    const std::string ending = ending_of(path);
    const auto seen = [&](Picture picture) {
        constexpr std::size_t kMostBytes = std::size_t{1} << 30U;
        return upright(std::move(picture), exif_orientation(read_text_file(path, "picture", kMostBytes)));
    };
    if (ending == ".png") return seen(read_png(path));
    if (ending != ".jpg" && ending != ".webp") {
        throw InvalidArgument(
            fmt::format("[picture] cannot read '{}': expected .png, .jpg or .webp", path.string()));
    }
    Frames frames = decode_with_ffmpeg(path);
    frames.pixels.resize(static_cast<std::size_t>(frame_bytes(frames)));
    return seen({frames.height, frames.width, std::move(frames.pixels)});
}

bool has_frame_rate(const fs::path& path) {
    return std::any_of(encodings().begin(), encodings().end(), [&](const Encoding& encoding) {
        return encoding.ending == ending_of(path) && !encoding.picture;
    });
}

Frames read_frames(const fs::path& path) {
    if (is_folder(path)) return read_png_folder(path);
    if (has_frame_rate(path)) return decode_with_ffmpeg(path);
    Picture picture = read_picture(path);
    return {1, picture.height, picture.width, std::move(picture.pixels)};
}

}  // namespace aerogel
