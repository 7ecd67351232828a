// Numbers of a mined model; the page around them is mine_page.h.
#include "cli/mine_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/mine_page.h"

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

std::string to_html(const MineReport& report) {
    return mine_page(report, typical_heads(report));
}

}  // namespace aerogel::cli
