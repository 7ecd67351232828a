// What the values on the command line may be; everything else is refused before any work starts: numbers,
// sizes of videos, and outputs that cannot be written.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/tensor.h"

namespace aerogel::cli {

constexpr std::int64_t kMostSteps = 1000;
constexpr std::int64_t kMostRanks = 1 << 20;  ///< of tensor parallelism

/// Of all options of a command but prompts: a text that is empty is a mistake of a script.
void refuse_empty_texts(CLI::App& command);

/// What the first option of `group` that is given and none of `besides` says nothing to, as "without
/// --online": InvalidArgument.
void refuse_group(const CLI::App& command, std::string_view group, std::string_view to,
                  std::initializer_list<std::string_view> besides = {});

/// --rank of the commands that read a quantized pair.
void add_rank_flag(CLI::App& command, int& rank);

/// A whole number from `least` to `most`.
CLI::Validator whole_number(std::int64_t least, std::int64_t most);
/// A finite number from `least` to `most`.
CLI::Validator real_number(double least, double most);
/// A finite number.
CLI::Validator any_real_number();
/// A whole number from 0 to 2^64 - 1.
CLI::Validator seed_number();

/// "cpu", "cuda" or "cuda:1"; InvalidArgument starting with `op` otherwise.
Device parse_device(std::string_view op, const std::string& text);

struct VideoSize {
    int width = 0;
    int height = 0;
};

/// "64x48" is width x height, as in ffmpeg; InvalidArgument starting with `op` otherwise.
VideoSize parse_video_size(std::string_view op, const std::string& text);

/// Throws unless `path` can become a file: it has a name, is no folder, is none of `inputs` and no file that
/// a model or a pair among them is read from (empty ones are left out), and its folder is there and may be
/// written. InvalidArgument, IoError.
void check_output_file(std::string_view op, const std::filesystem::path& path,
                       const std::vector<std::filesystem::path>& inputs = {});
/// Throws when two of them are one file or folder, whatever they are called. InvalidArgument.
void check_distinct(std::string_view op, const std::vector<std::filesystem::path>& outputs);
/// Throws unless `path` is a folder that may be written, or can be made.
void check_output_folder(std::string_view op, const std::filesystem::path& path);

}  // namespace aerogel::cli
