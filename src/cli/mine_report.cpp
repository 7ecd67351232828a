// Numbers of a mined model and the page around them; everything drawn is a plain function of the numbers.
#include "cli/mine_report.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "cli/output.h"
#include "core/text.h"
#include "model/video/png_file.h"

namespace aerogel::cli {
namespace {

using Json = nlohmann::ordered_json;

std::map<std::string, int> type_counts(const SparseProfile& profile) {
    std::map<std::string, int> counts;
    for (const auto& heads : profile.layers) {
        for (const auto& spans : heads) ++counts[longest(spans).type];
    }
    return counts;
}

double round4(double value) {
    return std::round(value * 1e4) / 1e4;
}

Json head_json(const MineReport& report, int layer, int head) {
    const auto& spans =
        report.profile.layers[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)];
    Json json = {{"layer", layer}, {"head", head}, {"type", longest(spans).type}};
    Json curves = Json::object();
    for (const std::string_view type : mined_types()) {
        const std::vector<MaskScore> scores = report.miner.curve(layer, head, type);
        json["recall"][std::string(type)] = round4(scores.front().recall);
        Json curve = Json::array();
        for (std::size_t i = 1; i < scores.size(); ++i)
            curve.push_back(
                {kCurveSparsities.at(i - 1), round4(scores[i].density), round4(scores[i].recall)});
        curves[std::string(type)] = std::move(curve);
    }
    json["curves"] = std::move(curves);  // [sparsity asked, computed share, recall]
    return json;
}

// For each type that occurs the head whose recall is best, and the head that no mask fits.
std::vector<HeadPlace> typical_heads(const MineReport& report) {
    std::map<std::string, std::pair<double, HeadPlace>> best;
    std::pair<double, HeadPlace> worst = {2.0, {0, 0}};
    for (int layer = 0; layer < report.miner.layers(); ++layer) {
        for (int head = 0; head < report.miner.heads(); ++head) {
            const auto& span = longest(
                report.profile.layers[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)]);
            auto& entry = best[span.type];
            if (span.recall >= entry.first) entry = {span.recall, {layer, head}};
            if (span.recall < worst.first) worst = {span.recall, {layer, head}};
        }
    }
    std::vector<HeadPlace> chosen;
    for (const auto& [type, entry] : best) chosen.push_back(entry.second);
    if (std::find(chosen.begin(), chosen.end(), worst.second) == chosen.end()) chosen.push_back(worst.second);
    return chosen;
}

}  // namespace

const ProfileSpan& longest(const std::vector<ProfileSpan>& spans) {
    return *std::max_element(spans.begin(), spans.end(), [](const ProfileSpan& a, const ProfileSpan& b) {
        return a.end_step - a.first_step < b.end_step - b.first_step;
    });
}

Json to_json(const MineReport& report) {
    const SparseProfile& profile = report.profile;
    Json json = {{"model", report.model},
                 {"latent_shape",
                  {profile.latent_shape.frames, profile.latent_shape.height, profile.latent_shape.width}},
                 {"block_size", profile.pattern.block_size},
                 {"sparsity", profile.pattern.sparsity},
                 {"steps", profile.steps},
                 {"head_types", type_counts(profile)}};
    Json heads = Json::array();
    for (int layer = 0; layer < report.miner.layers(); ++layer) {
        for (int head = 0; head < report.miner.heads(); ++head)
            heads.push_back(head_json(report, layer, head));
    }
    json["heads"] = std::move(heads);
    return json;
}

std::string to_text(const MineReport& report) {
    std::string text = fmt::format("layer  head  type       recall: {}\n", fmt::join(mined_types(), "  "));
    for (int layer = 0; layer < report.miner.layers(); ++layer) {
        for (int head = 0; head < report.miner.heads(); ++head) {
            const auto& span = longest(
                report.profile.layers[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)]);
            text += fmt::format("{:5}  {:4}  {:9}", layer, head, span.type);
            for (const std::string_view type : mined_types())
                text += fmt::format("{:10.3f}", report.miner.curve(layer, head, type).front().recall);
            text += "\n";
        }
    }
    text += fmt::format("at sparsity {}:", report.profile.pattern.sparsity);
    for (const auto& [type, count] : type_counts(report.profile)) text += fmt::format(" {} {}", count, type);
    return text;
}

// --- the page

namespace {

constexpr const char* kPage = R"html(<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Aerogel: mined attention</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222; }}
h1 {{ font-size: 1.4em; }} h2 {{ font-size: 1.1em; margin-top: 2em; }}
.maps {{ display: flex; flex-wrap: wrap; gap: 1.5em; }} figure {{ margin: 0; }}
.maps img {{ width: 20em; height: 20em; image-rendering: pixelated; border: 1px solid #ccc; }}
i {{ display: inline-block; width: 1em; height: 1em; margin: 0 .3em 0 1em; vertical-align: -.1em; }}
svg {{ overflow: visible; }} svg text {{ font: 12px system-ui, sans-serif; fill: #444; }}
</style>
<h1>Mined attention of {model}</h1>
<p>{summary}</p><p>{key}</p>
<h2>Typical heads</h2>
<p>Mean attention of queries (down) to keys (across), frame by frame; darker is more. Blue covers what the head's mask
leaves out.</p><div class="maps">{maps}</div>
<h2>Head types by layer and step</h2>
<p>A row is a head, layers from top to bottom; steps from left to right. Paler: the mask keeps less.</p>{types}
<h2>Kept attention against computed share</h2>
<p>A line is a head under the mask that suits it best; the further up and left, the better.</p>{curves}
</html>
)html";

// Grey for dense heads.
const char* colour_of(std::string_view type) {
    constexpr std::array kColours = {"#d9822b", "#2b7dd9", "#3aa655", "#a64d9e", "#c9a800"};
    const auto types = mined_types();
    const auto found = std::find(types.begin(), types.end(), type);
    return found == types.end() ? "#888888"
                                : kColours[static_cast<std::size_t>(found - types.begin()) % kColours.size()];
}

std::string escaped(const std::string& text) {
    std::string out;
    for (const char c : for_terminal(text)) {
        const std::string_view special = c == '<'    ? "&lt;"
                                         : c == '>'  ? "&gt;"
                                         : c == '&'  ? "&amp;"
                                         : c == '"'  ? "&quot;"
                                         : c == '\'' ? "&#39;"
                                                     : "";
        if (special.empty()) {
            out += c;
        } else {
            out += special;
        }
    }
    return out;
}

std::string base64(const std::string& bytes) {
    constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    for (std::size_t i = 0; i < bytes.size(); i += 3) {
        const auto byte = [&](std::size_t j) {
            return j < bytes.size() ? static_cast<unsigned char>(bytes[j]) : 0U;
        };
        const std::uint32_t group = byte(i) << 16 | byte(i + 1) << 8 | byte(i + 2);
        for (std::size_t digit = 0; digit < 4; ++digit)
            text += i + digit > bytes.size() ? '=' : kDigits[group >> (18 - 6 * digit) & 63];
    }
    return text;
}

// Ink by the square root of the mass, so that faint structure shows; blue where the mask leaves out.
Picture heat_map(const std::vector<float>& map, const std::vector<float>& mask) {
    std::vector<float> sorted = map;
    const auto high = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() * 98 / 100);
    std::nth_element(sorted.begin(), high, sorted.end());
    const float most = std::max(*high, 1e-9F);
    Picture picture{AttentionMiner::kPicture, AttentionMiner::kPicture, {}};
    for (std::size_t i = 0; i < map.size(); ++i) {
        const float ink = 255.0F * (1.0F - std::sqrt(std::min(1.0F, map[i] / most)));
        const float out = mask.empty() ? 0.0F : 0.35F * (1.0F - mask[i]);
        for (const float blue : {60.0F, 110.0F, 230.0F})
            picture.pixels.push_back(static_cast<std::uint8_t>(ink * (1.0F - out) + blue * out));
    }
    return picture;
}

std::string maps(const MineReport& report, const std::vector<HeadPlace>& typical) {
    std::string html;
    for (const HeadPlace& place : typical) {
        const ProfileSpan& span = longest(report.spans(place));
        const std::vector<float> mask =
            span.type == "dense" ? std::vector<float>() : report.miner.mask_picture(span.type);
        const Picture picture = heat_map(report.miner.picture(place.layer, place.head), mask);
        html += fmt::format(
            "<figure><img alt=\"attention map\" src=\"data:image/png;base64,{}\"><figcaption>layer {}, head "
            "{}: {}, recall "
            "{:.3f}</figcaption></figure>",
            base64(png_bytes(picture)), place.layer, place.head, span.type, span.recall);
    }
    return html;
}

std::string type_chart(const MineReport& report) {
    const int cell = std::clamp(600 / report.profile.steps, 6, 24);
    std::string rows;
    int y = 0;
    for (int layer = 0; layer < report.miner.layers(); ++layer) {
        rows += fmt::format("<text x=\"-8\" y=\"{}\" text-anchor=\"end\">{}</text>", y + 10, layer);
        for (int head = 0; head < report.miner.heads(); ++head, y += 10) {
            for (const ProfileSpan& span : report.spans({layer, head})) {
                rows += fmt::format(
                    "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"9\" fill=\"{}\" "
                    "fill-opacity=\"{:.2f}\"><title>layer {}, "
                    "head {}, steps {} to {}: {}, recall {:.3f}</title></rect>",
                    span.first_step * cell, y, (span.end_step - span.first_step) * cell, colour_of(span.type),
                    0.25 + 0.75 * span.recall, layer, head, span.first_step, span.end_step - 1, span.type,
                    span.recall);
            }
        }
        y += 6;
    }
    return fmt::format("<svg width=\"{}\" height=\"{}\"><g transform=\"translate(30 0)\">{}</g></svg>",
                       report.profile.steps * cell + 40, y, rows);
}

std::string curve_chart(const MineReport& report) {
    constexpr int kWidth = 520;
    constexpr int kHeight = 320;
    std::string lines;
    for (int layer = 0; layer < report.miner.layers(); ++layer) {
        for (int head = 0; head < report.miner.heads(); ++head) {
            const auto types = mined_types();
            const std::string_view best =
                *std::max_element(types.begin(), types.end(), [&](std::string_view a, std::string_view b) {
                    return report.miner.curve(layer, head, a).front().recall <
                           report.miner.curve(layer, head, b).front().recall;
                });
            std::string points;
            const std::vector<MaskScore> scores = report.miner.curve(layer, head, best);
            for (std::size_t i = 1; i < scores.size(); ++i)
                points += fmt::format("{:.1f},{:.1f} ", scores[i].density * kWidth,
                                      kHeight * (1.0 - scores[i].recall));
            lines += fmt::format(
                "<polyline fill=\"none\" stroke=\"{}\" stroke-opacity=\".6\" points=\"{}\"><title>layer {}, "
                "head {}: "
                "{}</title></polyline>",
                colour_of(best), points, layer, head, best);
        }
    }
    for (int percent = 0; percent <= 100; percent += 20) {
        lines += fmt::format(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{} %</text><text x=\"-6\" y=\"{}\" "
            "text-anchor=\"end\">{} "
            "%</text>",
            percent * kWidth / 100, kHeight + 16, percent, kHeight - percent * kHeight / 100 + 4, percent);
    }
    return fmt::format(
        "<svg width=\"{}\" height=\"{}\"><g transform=\"translate(50 10)\"><rect width=\"{}\" height=\"{}\" "
        "fill=\"none\" "
        "stroke=\"#ccc\"/>{}</g></svg>",
        kWidth + 70, kHeight + 40, kWidth, kHeight, lines);
}

std::string mine_page(const MineReport& report, const std::vector<HeadPlace>& typical) {
    const SparseProfile& profile = report.profile;
    std::string key;
    auto types = mined_types();
    types.emplace_back("dense");
    for (const std::string_view type : types)
        key += fmt::format("<i style=\"background:{}\"></i>{}", colour_of(type), type);
    const std::string summary =
        fmt::format("{} x {} x {} tokens, {}, sparsity {}, blocks of {}", profile.latent_shape.frames,
                    profile.latent_shape.height, profile.latent_shape.width, counted(profile.steps, "step"),
                    profile.pattern.sparsity, profile.pattern.block_size);
    return fmt::format(kPage, fmt::arg("model", escaped(report.model)), fmt::arg("summary", summary),
                       fmt::arg("key", key), fmt::arg("maps", maps(report, typical)),
                       fmt::arg("types", type_chart(report)), fmt::arg("curves", curve_chart(report)));
}

}  // namespace

std::string to_html(const MineReport& report) {
    return mine_page(report, typical_heads(report));
}

}  // namespace aerogel::cli
