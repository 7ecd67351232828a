// aerogel compare A B: how close two videos or two sets of tensors are.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "cli/command.h"
#include "cli/metrics.h"
#include "cli/video_file.h"

namespace aerogel::cli {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

struct CompareOptions {
    std::string a;
    std::string b;
    bool json = false;
};

struct Row {
    std::string name;
    Distance distance;
    std::optional<double> psnr;
    std::optional<double> ssim;
};

std::vector<float> pixel_values(const Frames& frames) {
    std::vector<float> values(frames.pixels.begin(), frames.pixels.end());
    for (float& value : values) value /= 255.0F;
    return values;
}

Row compare_frames(const std::string& name, const Frames& a, const Frames& b) {
    if (a.count != b.count || a.height != b.height || a.width != b.width) {
        throw InvalidArgument(
            fmt::format("[compare] the videos differ in size: {} frames of {}x{}, and {} frames of {}x{}",
                        a.count, a.width, a.height, b.count, b.width, b.height));
    }
    return {name, distance(pixel_values(a), pixel_values(b)), psnr(a, b), ssim(a, b)};
}

bool is_video(const Tensor& tensor) {
    return tensor.dtype() == DType::f32 && tensor.shape().size() == 4 && tensor.dim(0) == 3 &&
           tensor.count() != 0;
}

Row compare_tensors(const std::string& name, const Tensor& a, const Tensor& b) {
    if (a.shape() != b.shape()) {
        throw InvalidArgument(
            fmt::format("[compare] '{}' differs in shape: {} and {}", name, a.describe(), b.describe()));
    }
    const Tensor x = a.to(DType::f32), y = b.to(DType::f32);
    const auto count = static_cast<std::size_t>(x.count());
    Row row{name, distance({x.as<float>(), count}, {y.as<float>(), count}), {}, {}};
    if (name == "video" && is_video(a) && is_video(b)) {
        row.psnr = psnr(to_frames(a), to_frames(b));
        row.ssim = ssim(to_frames(a), to_frames(b));
    }
    return row;
}

std::vector<Row> compare_tensor_files(const fs::path& path_a, const fs::path& path_b) {
    const SafetensorsFile a = SafetensorsFile::open(path_a), b = SafetensorsFile::open(path_b);
    std::vector<Row> rows;
    for (const auto& name : a.names()) {
        if (!b.contains(name))
            throw InvalidArgument(fmt::format("[compare] '{}' is in {} only", name, path_a.string()));
        rows.push_back(compare_tensors(name, a.tensor(name), b.tensor(name)));
    }
    for (const auto& name : b.names()) {
        if (!a.contains(name))
            throw InvalidArgument(fmt::format("[compare] '{}' is in {} only", name, path_b.string()));
    }
    return rows;
}

// A raw "video" tensor may be compared with an encoded video too.
Frames frames_of(const fs::path& path) {
    if (is_frames_path(path)) return read_frames(path);
    return to_frames(SafetensorsFile::open(path).tensor("video"));
}

// JSON has no infinity: equal videos get the string "inf".
Json number(double value) {
    if (std::isfinite(value)) return value;
    return std::isnan(value) ? "nan" : "inf";
}

Json to_json(const Row& row) {
    Json json = {{"name", row.name}};
    if (row.psnr) json["psnr"] = number(*row.psnr);
    if (row.ssim) json["ssim"] = number(*row.ssim);
    json["cosine"] = number(row.distance.cosine);
    json["relative_l1"] = number(row.distance.relative_l1);
    json["relative_l2"] = number(row.distance.relative_l2);
    json["largest"] = number(row.distance.largest);
    return json;
}

void run_compare(const CompareOptions& options) {
    const bool frames = is_frames_path(options.a) || is_frames_path(options.b);
    const std::vector<Row> rows =
        frames ? std::vector<Row>{compare_frames("video", frames_of(options.a), frames_of(options.b))}
               : compare_tensor_files(options.a, options.b);
    if (options.json) {
        Json json = {{"a", options.a}, {"b", options.b}, {"results", Json::array()}};
        for (const Row& row : rows) json["results"].push_back(to_json(row));
        fmt::print("{}\n", json.dump(2));
        return;
    }
    fmt::print("{:<40} {:>9} {:>8} {:>10} {:>11} {:>11} {:>11}\n", "name", "PSNR dB", "SSIM", "cosine",
               "relative L1", "relative L2", "largest");
    const auto optional = [](const std::optional<double>& value, int digits) {
        return value ? fmt::format("{:.{}f}", *value, digits) : std::string("-");
    };
    for (const Row& row : rows) {
        fmt::print("{:<40} {:>9} {:>8} {:>10.7f} {:>11.3e} {:>11.3e} {:>11.3e}\n", row.name,
                   optional(row.psnr, 2), optional(row.ssim, 4), row.distance.cosine,
                   row.distance.relative_l1, row.distance.relative_l2, row.distance.largest);
    }
}

}  // namespace

void add_compare(CLI::App& app) {
    auto* command = app.add_subcommand(
        "compare", "How close two videos or tensor files are: PSNR, SSIM, cosine, relative L1/L2");
    auto options = std::make_shared<CompareOptions>();
    command->add_option("A", options->a, "The reference: .mp4, .gif, folder of PNG files or .safetensors")
        ->required();
    command->add_option("B", options->b, "What is compared with it")->required();
    command->add_flag("--json", options->json, "Print JSON");
    command->footer(
        "Examples:\n"
        "  aerogel compare float.mp4 quantized.mp4\n"
        "  aerogel compare float.safetensors quantized.safetensors --json");
    command->callback([options] { run_compare(*options); });
}

}  // namespace aerogel::cli
