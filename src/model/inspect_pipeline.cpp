// model_index.json says which classes the components are of; the headers of their weights tell the rest.
#include "model/inspect_pipeline.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/pipelines.h"
#include "model/text/text_model.h"
#include "model/vae/vae.h"
#include "quant/export.h"
#include "quant/float_layer.h"
#include "quant/name_pattern.h"
#include "quant/schemes.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr std::array<std::string_view, 4> kShownSchemes = {"W8A8_DYNAMIC", "W8A16", "W4A8", "W4A16"};

enum class Kind { transformer, text_encoder, vae, other };

struct Component {
    std::string name;
    std::string class_name;
    Kind kind = Kind::other;
    std::vector<std::string_view> known;  ///< the classes that could stand there
    bool supported = true;
    std::size_t tensors = 0, parameters = 0, bytes = 0;
    std::size_t linears = 0, quantized = 0;
    std::vector<std::pair<std::string_view, std::size_t>> memory;  ///< scheme -> bytes of all weights
};

std::size_t count_of(const TensorInfo& info) {
    return static_cast<std::size_t>(element_count(info.shape));
}

// Bytes of a matrix in this scheme: values, and a float32 scale per group.
std::size_t quantized_bytes(const SchemeRow& scheme, const Shape& shape) {
    const std::int64_t group = group_size_of(scheme, kSchemeGroups, shape[1]);
    const std::int64_t groups = group == 0 ? 1 : shape[1] / group;
    const std::int64_t values = scheme.weight == Format::int4 ? (shape[1] + 1) / 2 : shape[1];
    return static_cast<std::size_t>(shape[0]) * static_cast<std::size_t>(values + 4 * groups);
}

std::optional<fs::path> weights_in(const fs::path& folder) {
    for (const char* name :
         {"diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json",
          "model.safetensors", "model.safetensors.index.json"})
        if (is_file(folder / name)) return folder / name;
    return std::nullopt;
}

void measure(Component& component, const fs::path& weights, std::string_view patterns) {
    const SafetensorsFile file = SafetensorsFile::open(weights);
    std::array<std::size_t, kShownSchemes.size()> memory = {};
    const NamePattern by_default(patterns);
    std::vector<std::string> chosen;
    if (component.kind == Kind::transformer || component.kind == Kind::text_encoder) {
        const std::vector<std::string> linears = linear_layers(WeightFile::of(file));
        component.linears = linears.size();
        for (const std::string& name : linears)
            if (by_default.matches(name)) chosen.push_back(name + ".weight");
        component.quantized = chosen.size();
        std::sort(chosen.begin(), chosen.end());
    }
    for (const std::string& name : file.names()) {
        const TensorInfo& info = file.info(name);
        ++component.tensors;
        component.parameters += count_of(info);
        component.bytes += info.bytes();
        const bool quantized = std::binary_search(chosen.begin(), chosen.end(), name);
        for (std::size_t i = 0; i < memory.size(); ++i)
            memory[i] += quantized ? quantized_bytes(scheme_row("inspect", kShownSchemes[i]), info.shape)
                                   : info.bytes();
    }
    if (chosen.empty()) return;
    for (std::size_t i = 0; i < memory.size(); ++i)
        component.memory.emplace_back(kShownSchemes[i], memory[i]);
}

Kind kind_of(const std::string& name) {
    if (name.starts_with("transformer")) return Kind::transformer;
    if (name.starts_with("text_encoder")) return Kind::text_encoder;
    return name == "vae" ? Kind::vae : Kind::other;
}

// The class that the folder itself names counts more than model_index.json.
std::string class_in(const fs::path& folder, std::string told) {
    if (!path_exists(folder / "config.json")) return told;
    const JsonNode config = JsonNode::read(folder / "config.json", "inspect");
    return config.has("_class_name") ? config.at("_class_name").text() : told;
}

Component component_of(const fs::path& folder, const std::string& name, std::string told,
                       std::span<const FamilyRow> rows) {
    Component component;
    component.name = name;
    component.kind = kind_of(name);
    component.class_name = class_in(folder / name, std::move(told));
    std::string_view patterns = kTextLayers;
    if (component.kind == Kind::transformer) {
        patterns = kDefaultLayers;
        for (const FamilyRow& row : rows) {
            component.known.push_back(row.class_name);
            if (row.class_name == component.class_name) patterns = row.defaults.layers;
        }
    } else if (component.kind == Kind::vae) {
        component.known.assign(vae_classes().begin(), vae_classes().end());
    }
    component.supported = component.known.empty() || std::find(component.known.begin(), component.known.end(),
                                                               component.class_name) != component.known.end();
    if (const auto weights = weights_in(folder / name)) measure(component, *weights, patterns);
    return component;
}

OrderedJson to_json(const Component& component) {
    OrderedJson json = {{"name", component.name},
                        {"class", component.class_name},
                        {"supported", component.supported},
                        {"tensors", component.tensors},
                        {"parameters", component.parameters},
                        {"bytes", component.bytes}};
    if (!component.supported) json["supported_classes"] = component.known;
    if (component.memory.empty()) return json;
    json["linear_layers"] = component.linears;
    json["quantized_by_default"] = component.quantized;
    json["bytes_by_scheme"] = OrderedJson::object();
    for (const auto& [scheme, bytes] : component.memory) json["bytes_by_scheme"][std::string(scheme)] = bytes;
    return json;
}

std::string to_text(const Component& component) {
    std::string text = fmt::format("\n  {:<16} {}", component.name, printable(component.class_name));
    if (component.tensors != 0)
        text += fmt::format(", {:.2f} M parameters, {}", static_cast<double>(component.parameters) / 1e6,
                            show_bytes(static_cast<double>(component.bytes)));
    if (!component.memory.empty()) {
        text += fmt::format("\n    {} of {} Linear layers quantized by default; weights", component.quantized,
                            component.linears);
        const char* between = " ";
        for (const auto& [scheme, bytes] : component.memory) {
            text += fmt::format("{}{} in {}", between, show_bytes(static_cast<double>(bytes)), scheme);
            between = ", ";
        }
    }
    if (!component.supported)
        text += fmt::format("\n    not supported: {}; supported are {}", in_quotes(component.class_name),
                            fmt::join(component.known, ", "));
    return text;
}

}  // namespace

ComponentsReport inspect_components(const fs::path& folder, std::span<const FamilyRow> rows) {
    const JsonNode index = JsonNode::read(folder / "model_index.json", "inspect");
    const std::string pipeline = index.has("_class_name") ? index.at("_class_name").text() : "";
    std::vector<std::string_view> known;
    for (const PipelineRow& row : pipelines()) known.push_back(row.class_name);
    // Without a class it is a folder of ours, of a transformer and what it needs.
    const bool supported = pipeline.empty() || std::find(known.begin(), known.end(), pipeline) != known.end();
    ComponentsReport report;
    report.json = {{"pipeline", pipeline}, {"supported", supported}, {"components", OrderedJson::array()}};
    if (!supported) report.json["supported_pipelines"] = known;
    report.text = fmt::format("pipeline {}", pipeline.empty() ? "without a class" : printable(pipeline));
    if (!supported)
        report.text += fmt::format("\n  not supported: {}; supported are {}", in_quotes(pipeline),
                                   fmt::join(known, ", "));
    for (const auto& [name, value] : index.json().items()) {
        const bool part =
            value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string();
        const bool plain = name.find('/') == std::string::npos && name != "..";
        if (!part || !plain || !is_folder(folder / name)) continue;
        const Component component = component_of(folder, name, value[1].get<std::string>(), rows);
        report.json["components"].push_back(to_json(component));
        report.text += to_text(component);
    }
    return report;
}

}  // namespace aerogel
