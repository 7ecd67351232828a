// aerogel compare A B: how close two videos or two sets of tensors are.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/command.h"
#include "cli/output.h"
#include "model/compare.h"

namespace aerogel::cli {
namespace {

using Json = nlohmann::ordered_json;

struct CompareOptions {
    std::string a;
    std::string b;
    bool json = false;
};

// JSON has no infinity: equal videos get the string "inf".
Json number(double value) {
    if (std::isfinite(value)) return value;
    return std::isnan(value) ? "nan" : "inf";
}

Json to_json(const Comparison& row) {
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
    const std::vector<Comparison> rows = compare_files(options.a, options.b);
    if (options.json) {
        Json json = {{"a", options.a}, {"b", options.b}, {"results", Json::array()}};
        for (const Comparison& row : rows) json["results"].push_back(to_json(row));
        print_json(json);
        return;
    }
    print_text(fmt::format("{:<40} {:>9} {:>8} {:>10} {:>11} {:>11} {:>11}", "name", "PSNR dB", "SSIM",
                           "cosine", "relative L1", "relative L2", "largest"));
    const auto optional = [](const std::optional<double>& value, int digits) {
        return value ? fmt::format("{:.{}f}", *value, digits) : std::string("-");
    };
    for (const Comparison& row : rows) {
        print_text(fmt::format("{:<40} {:>9} {:>8} {:>10.7f} {:>11.3e} {:>11.3e} {:>11.3e}", row.name,
                               optional(row.psnr, 2), optional(row.ssim, 4), row.distance.cosine,
                               row.distance.relative_l1, row.distance.relative_l2, row.distance.largest));
    }
}

}  // namespace

void add_compare(CLI::App& app) {
    auto* command = app.add_subcommand(
        "compare",
        "Measure how close two videos, pictures or sets of tensors are: PSNR, SSIM, cosine, relative L1/L2");
    auto options = std::make_shared<CompareOptions>();
    command
        ->add_option("A", options->a,
                     "The reference: .mp4, .gif, a folder of PNG files, .png, .jpg, .webp or .safetensors")
        ->required();
    command->add_option("B", options->b, "The file or folder to compare with it")->required();
    command->add_flag("--json", options->json, "Print JSON");
    command->footer(
        "Examples:\n"
        "  aerogel compare float.mp4 quantized.mp4\n"
        "  aerogel compare float.safetensors quantized.safetensors --json");
    command->callback([options] { run_compare(*options); });
}

}  // namespace aerogel::cli
