// model_index.json says which classes the components are of; the headers of their weights tell the rest.
// Sizes in memory are those of this machine: what stays float is counted as it runs.
#include "model/inspect_pipeline.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "core/json.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/automatic.h"
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
    std::size_t float_memory = 0;                                  ///< the same where nothing is quantized
    std::optional<AutomaticChoice> automatic;                      ///< where nothing is asked for
    std::size_t automatic_memory = 0;
};

std::size_t count_of(const TensorInfo& info) {
    return static_cast<std::size_t>(element_count(info.shape));
}

std::optional<fs::path> weights_in(const fs::path& folder) {
    for (const char* name :
         {"diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json",
          "model.safetensors", "model.safetensors.index.json"})
        if (is_file(folder / name)) return folder / name;
    return std::nullopt;
}

// What counts of a tensor, and whether it is a Linear that loading knows.
struct Measured {
    const TensorInfo& info;
    bool linear = false;
    bool by_default = false;

    std::size_t running() const {
        return linear ? static_cast<std::size_t>(running_bytes(info.dtype, info.shape)) : info.bytes();
    }
};

// Everything of a transformer that looks like a Linear is one; embeddings of text encoders look so too.
std::vector<Measured> measured(Component& component, const SafetensorsFile& file, std::string_view patterns) {
    const NamePattern by_default(patterns), unused(kTextUnused);
    const bool text = component.kind == Kind::text_encoder;
    std::vector<std::string> linears;
    if (text || component.kind == Kind::transformer) linears = linear_layers(WeightFile::of(file));
    std::sort(linears.begin(), linears.end());
    component.linears = linears.size();
    std::vector<Measured> all;
    for (const std::string& name : file.names()) {
        const TensorInfo& info = file.info(name);
        ++component.tensors;
        component.parameters += count_of(info);
        component.bytes += info.bytes();
        if (text && unused.matches(name)) continue;
        const std::string layer = name.substr(0, name.rfind('.'));
        const bool matrix =
            name.ends_with(".weight") && std::binary_search(linears.begin(), linears.end(), layer);
        const bool chosen = matrix && by_default.matches(layer);
        all.push_back({info, matrix && (chosen || !text), chosen});
    }
    return all;
}

void measure(Component& component, const fs::path& weights, const AutomaticRules& rules) {
    const SafetensorsFile file = SafetensorsFile::open(weights);
    const std::vector<Measured> tensors = measured(component, file, rules.layers);
    std::array<std::size_t, kShownSchemes.size()> memory = {};
    std::size_t others = 0;  // what is in no Linear
    std::vector<SizedLinear> linears;
    for (const Measured& tensor : tensors) {
        const TensorInfo& info = tensor.info;
        component.quantized += tensor.by_default ? 1 : 0;
        component.float_memory += tensor.running();
        for (std::size_t i = 0; i < memory.size(); ++i)
            memory[i] += tensor.by_default
                             ? quantized_bytes(scheme_row("inspect", kShownSchemes[i]), info.shape)
                             : tensor.running();
        if (tensor.linear)
            linears.push_back({info.name.substr(0, info.name.rfind('.')), info.shape, info.dtype});
        else
            others += info.bytes();
    }
    if (component.quantized == 0) return;
    for (std::size_t i = 0; i < memory.size(); ++i)
        component.memory.emplace_back(kShownSchemes[i], memory[i]);
    component.automatic = choose_schemes(linears, rules);
    component.automatic_memory = component.automatic
                                     ? others + static_cast<std::size_t>(component.automatic->bytes)
                                     : component.float_memory;
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
    AutomaticRules rules = {kTextLayers, kTextSchemes, static_cast<double>(usable_memory_bytes())};
    if (component.kind == Kind::transformer) {
        for (const FamilyRow& row : rows) component.known.push_back(row.class_name);
        const FamilyRow* const row = find_family(component.class_name, rows);
        const DefaultPatterns defaults = row == nullptr ? DefaultPatterns{} : row->defaults;
        rules.layers = defaults.layers;
        rules.schemes = {.further_layers = defaults.further_layers};
    } else if (component.kind == Kind::vae) {
        component.known.assign(vae_classes().begin(), vae_classes().end());
    }
    component.supported = component.known.empty() || std::find(component.known.begin(), component.known.end(),
                                                               component.class_name) != component.known.end();
    if (const auto weights = weights_in(folder / name)) measure(component, *weights, rules);
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
    json["float_bytes"] = component.float_memory;
    json["automatic"] = {{"scheme", component.automatic ? component.automatic->scheme : "FLOAT"},
                         {"bytes", component.automatic_memory},
                         {"memory", usable_memory_bytes()}};
    return json;
}

std::string to_text(const Component& component) {
    std::string text = fmt::format("\n  {:<16} {}", component.name, printable(component.class_name));
    if (component.tensors != 0)
        text += fmt::format(", {:.2f} M parameters, {}", static_cast<double>(component.parameters) / 1e6,
                            show_bytes(static_cast<double>(component.bytes)));
    if (!component.memory.empty()) {
        text += fmt::format(
            "\n    {} of {} Linear layers quantized by default; weights in memory here: {} float",
            component.quantized, component.linears, show_bytes(static_cast<double>(component.float_memory)));
        for (const auto& [scheme, bytes] : component.memory)
            text += fmt::format(", {} in {}", show_bytes(static_cast<double>(bytes)), scheme);
        text += fmt::format("\n    where no scheme is asked for, with {} of memory: {}, {}",
                            show_bytes(static_cast<double>(usable_memory_bytes())),
                            component.automatic ? component.automatic->scheme : "float",
                            show_bytes(static_cast<double>(component.automatic_memory)));
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
