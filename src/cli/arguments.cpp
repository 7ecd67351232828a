// Strict parsing: the whole text must be a number. Questions to the file system: the answers may change
// before the file is written, which then tells itself.
#include "cli/arguments.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>

#include "aerogel/error.h"
#include "core/paths.h"
#include "core/text.h"

namespace aerogel::cli {

namespace fs = std::filesystem;

namespace {

template <typename T>
bool parse(const std::string& text, T& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc{} && end == text.data() + text.size();
}

// Help shows `range`, errors what was expected and got.
template <typename T>
CLI::Validator in_range(const char* kind, T least, T most) {
    const std::string range = fmt::format("from {} to {}", least, most);
    return {[=](std::string& text) {
                T value{};
                if (parse(text, value) && value >= least && value <= most) return std::string();
                return fmt::format("must be {} {}, got '{}'", kind, range, text);
            },
            range};
}

fs::path folder_of(const fs::path& file) {
    return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

void check_writable(std::string_view op, const fs::path& path, const fs::path& folder) {
    if (::access(folder.c_str(), W_OK | X_OK) == 0) return;
    throw IoError(fmt::format("[{}] the output {} cannot be written: no permission in the folder {}", op,
                              in_quotes(path.string()), in_quotes(folder.string())));
}

// Whether writing there would replace what a model or a pair is read from, given by its folder or
// description. Links within the folder count as what they are called; beside the components of a pipeline is
// room for more.
bool is_read_from(const fs::path& file, const fs::path& input) {
    constexpr std::array<std::string_view, 5> kRead = {".json", ".safetensors", ".gguf", ".model", ".txt"};
    constexpr std::string_view kPair = "quant_model_";
    const bool description = !is_folder(input) && input.filename().string().starts_with(kPair);
    if (!path_exists(file) || (!is_folder(input) && !description)) return false;
    const fs::path folder = description ? folder_of(input) : input;
    const fs::path inside = full_path(folder_of(file)).lexically_relative(full_path(folder));
    if (*inside.begin() == "..") return false;
    const std::string name = file.filename().string();
    if (name == "model_index.json" || name.starts_with(kPair)) return true;
    const bool component = inside != "." || path_exists(folder / "config.json");
    return component && std::find(kRead.begin(), kRead.end(), file.extension().string()) != kRead.end();
}

}  // namespace

void refuse_empty_texts(CLI::App& command) {
    const CLI::Validator not_empty(
        [](std::string& text) { return text.empty() ? std::string("must not be empty") : std::string(); },
        "");
    for (CLI::Option* option : command.get_options()) {
        const std::string name = option->get_name();
        const bool is_text = option->get_type_name().starts_with("TEXT");
        if (is_text && name != "--prompt" && name != "--negative-prompt") option->check(not_empty);
    }
}

void refuse_group(const CLI::App& command, std::string_view group, std::string_view to,
                  std::initializer_list<std::string_view> besides) {
    for (const CLI::Option* option : command.get_options()) {
        const std::string& name = option->get_name();
        if (option->get_group() != group || option->count() == 0) continue;
        if (std::find(besides.begin(), besides.end(), name) != besides.end()) continue;
        throw InvalidArgument(fmt::format("[{}] {} says nothing {}", command.get_name(), name, to));
    }
}

void add_rank_flag(CLI::App& command, int& rank) {
    command.add_option("--rank", rank, "Rank of the quantized files (-1: taken from the file name)")
        ->check(whole_number(-1, kMostRanks));
}

CLI::Validator whole_number(std::int64_t least, std::int64_t most) {
    return in_range("a whole number", least, most);
}

CLI::Validator real_number(double least, double most) {
    return in_range("a number", least, most);
}

CLI::Validator any_real_number() {
    return {[](std::string& text) {
                double value = 0.0;
                if (parse(text, value) && std::isfinite(value)) return std::string();
                return fmt::format("must be a finite number, got '{}'", text);
            },
            ""};
}

CLI::Validator seed_number() {
    return in_range<std::uint64_t>("a whole number", 0, std::numeric_limits<std::uint64_t>::max());
}

Device parse_device(std::string_view op, const std::string& text) {
    const std::string_view number = std::string_view(text).substr(std::min(text.size(), std::size_t{5}));
    if (text == "cpu") return Device::cpu;
    if (text == "cuda") return Device::cuda;
    const bool digits =
        !number.empty() && number.size() < 4 && number.find_first_not_of("0123456789") == number.npos;
    if (text.starts_with("cuda:") && digits) return {DeviceKind::cuda, std::stoi(std::string(number))};
    throw InvalidArgument("[" + std::string(op) + "] --device must be cpu, cuda or cuda:N, got " + text);
}

VideoSize parse_video_size(std::string_view op, const std::string& text) {
    VideoSize size;
    const char* const end = text.data() + text.size();
    const auto width = std::from_chars(text.data(), end, size.width);
    if (width.ec == std::errc{} && width.ptr != end && *width.ptr == 'x') {
        const auto height = std::from_chars(width.ptr + 1, end, size.height);
        if (height.ec == std::errc{} && height.ptr == end && size.width >= 1 && size.height >= 1) return size;
    }
    throw InvalidArgument(
        fmt::format("[{}] --size must be WIDTHxHEIGHT like 64x64, got {}", op, in_quotes(text)));
}

void check_output_file(std::string_view op, const fs::path& path, const std::vector<fs::path>& inputs) {
    const std::string name = in_quotes(path.string());
    if (!path.has_filename())
        throw InvalidArgument(fmt::format("[{}] the output must be a file name, got {}", op, name));
    if (is_folder(path))
        throw IoError(fmt::format("[{}] the output {} is a folder, expected a file name", op, name));
    if (path_exists(path) && !is_file(path))
        throw IoError(fmt::format("[{}] the output {} is there and no regular file", op, name));
    for (const fs::path& input : inputs) {
        if (!input.empty() && is_same_file(path, input))
            throw InvalidArgument(fmt::format("[{}] the output {} is also an input", op, name));
    }
    for (const fs::path& input : inputs) {
        if (input.empty() || !is_read_from(path, input)) continue;
        throw InvalidArgument(
            fmt::format("[{}] the output {} is a file of the input {}", op, name, in_quotes(input.string())));
    }
    const fs::path folder = folder_of(path);
    if (!is_folder(folder)) {
        throw IoError(fmt::format("[{}] the output {} cannot be written: the folder {} does not exist", op,
                                  name, in_quotes(folder.string())));
    }
    check_writable(op, path, folder);
}

void check_distinct(std::string_view op, const std::vector<fs::path>& outputs) {
    std::vector<fs::path> seen;
    for (const fs::path& output : outputs) {
        const fs::path full = full_path(output.has_filename() ? output : output.parent_path());
        if (std::find(seen.begin(), seen.end(), full) != seen.end())
            throw InvalidArgument(
                fmt::format("[{}] the output {} is given twice", op, in_quotes(output.string())));
        seen.push_back(full);
    }
}

void check_output_folder(std::string_view op, const fs::path& path) {
    if (path.empty()) throw InvalidArgument(fmt::format("[{}] the output must be a folder, got ''", op));
    fs::path there = path;
    while (!there.empty() && !path_exists(there)) there = there.parent_path();
    if (there.empty()) there = ".";
    if (!is_folder(there)) {
        throw IoError(fmt::format("[{}] the output {} cannot be a folder: {} is a file", op,
                                  in_quotes(path.string()), in_quotes(there.string())));
    }
    check_writable(op, path, there);
}

}  // namespace aerogel::cli
