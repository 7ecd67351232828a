// Profiles as JSON files: written exactly, read with an error for every key that is not what it should be.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "aerogel/error.h"
#include "aerogel/sparse_profile.h"
#include "core/atomic_file.h"
#include "core/json.h"
#include "core/text.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kVersionKey = "aerogel_sparse_profile";
constexpr int kVersion = 1;

constexpr Bounds kCounts = {1, 1'000'000'000};

std::string read_type(const JsonNode& node) {
    std::string known = "dense";
    if (node.json() == known) return known;
    for (const HeadPattern* pattern : sparse_type_row("rf_v1").head_patterns()) {
        if (node.json() == pattern->name) return std::string(pattern->name);
        known += ", " + std::string(pattern->name);
    }
    node.fail("one of the head types " + known);
}

// The spans of one head, which follow each other without gaps from 0 to `steps`.
std::vector<ProfileSpan> read_spans(const JsonNode& head, int steps) {
    std::vector<ProfileSpan> spans;
    int next = 0;
    for (const JsonNode& span : head.items("a list of spans")) {
        const std::string wanted = fmt::format("a span [{}, end_step, type, recall]", next);
        const std::vector<JsonNode> parts = span.items(wanted);
        if (parts.size() != 4 || parts[0].json() != next) span.fail(wanted);
        const auto end = static_cast<int>(parts[1].whole({next + 1, kCounts.high}));
        spans.push_back({next, end, read_type(parts[2]), parts[3].number(0.0, 1.0)});
        next = end;
    }
    if (next != steps) head.fail(fmt::format("spans that end at step {}", steps));
    return spans;
}

LatentShape read_latent_shape(const JsonNode& node) {
    const std::vector<JsonNode> sizes = node.items("[frames, height, width]");
    if (sizes.size() != 3) node.fail("[frames, height, width]");
    return {sizes[0].whole(kCounts), sizes[1].whole(kCounts), sizes[2].whole(kCounts)};
}

SparseProfile read_profile(const JsonNode& json) {
    const JsonNode version = json.at(kVersionKey);
    if (version.json() != kVersion) {
        version.fail(fmt::format("{}, the mark of a profile made by aerogel mine", kVersion));
    }
    SparseProfile profile;
    profile.latent_shape = read_latent_shape(json.at("latent_shape"));
    profile.pattern.block_size = json.at("block_size").whole(kCounts);
    profile.pattern.sparsity = json.at("sparsity").number(0.0, 1.0);
    profile.pattern.protect_first_frame = json.at("protect_first_frame").flag();
    profile.steps = static_cast<int>(json.at("steps").whole(kCounts));
    const JsonNode layers = json.at("layers");
    for (const JsonNode& layer : layers.items("a list of layers")) {
        auto& heads = profile.layers.emplace_back();
        for (const JsonNode& head : layer.items("a list of heads")) {
            heads.push_back(read_spans(head, profile.steps));
        }
        if (heads.empty()) layer.fail("a list of heads");
    }
    if (profile.layers.empty()) layers.fail("a list of layers");
    return profile;
}

// One line per layer: a person can look through the file.
std::string layer_line(const std::vector<std::vector<ProfileSpan>>& heads) {
    Json line = Json::array();
    for (const auto& head : heads) {
        Json spans = Json::array();
        for (const ProfileSpan& span : head)
            spans.push_back({span.first_step, span.end_step, span.type, std::round(span.recall * 1e4) / 1e4});
        line.push_back(std::move(spans));
    }
    return dump_json(line);
}

}  // namespace

SparseProfile SparseProfile::read(const std::filesystem::path& path) {
    return read_profile(JsonNode::read(path, "sparse_profile"));
}

void SparseProfile::write(const std::filesystem::path& path) const {
    const Json head = {{kVersionKey, kVersion},
                       {"latent_shape", {latent_shape.frames, latent_shape.height, latent_shape.width}},
                       {"block_size", pattern.block_size},
                       {"sparsity", pattern.sparsity},
                       {"protect_first_frame", pattern.protect_first_frame},
                       {"steps", steps}};
    std::string text = "{\n";
    for (const auto& [key, value] : head.items())
        text += fmt::format(" \"{}\": {},\n", key, dump_json(value));
    text += " \"layers\": [\n";
    for (std::size_t i = 0; i < layers.size(); ++i)
        text += fmt::format("  {}{}\n", layer_line(layers[i]), i + 1 < layers.size() ? "," : "");
    write_file_atomically(path, text + " ]\n}\n");
}

std::vector<std::string> SparseProfile::head_types(int layer, int step) const {
    if (layer < 0 || static_cast<std::size_t>(layer) >= layers.size()) {
        throw InvalidArgument(fmt::format("[sparse_profile] the profile has {}, asked for layer {}",
                                          counted(layers.size(), "layer"), layer));
    }
    std::vector<std::string> types;
    for (const auto& spans : layers[static_cast<std::size_t>(layer)]) {
        if (spans.empty()) {
            throw InvalidArgument(
                fmt::format("[sparse_profile] head {} of layer {} has no types", types.size(), layer));
        }
        const ProfileSpan* found = &spans.front();
        for (const ProfileSpan& span : spans) {
            if (span.first_step <= step) found = &span;
        }
        types.push_back(found->type);
    }
    return types;
}

}  // namespace aerogel
