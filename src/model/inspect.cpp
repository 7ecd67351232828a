// Finding out what a path is, and reporting it as a table and as JSON. Ranges of calibration are shown as the
// exporter takes them: means over forwards.
#include "model/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "core/gguf.h"
#include "core/json.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/inspect_pipeline.h"
#include "model/model_files.h"
#include "quant/calibration.h"
#include "quant/export.h"
#include "quant/inspection.h"
#include "quant/name_pattern.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string shown(std::size_t bytes) {
    return show_bytes(static_cast<double>(bytes));
}

// Layers of one scheme and shape, as one line.
struct LayerGroup {
    std::size_t count = 0;
    std::size_t bytes = 0;
    std::size_t weights = 0;
    std::string first;
};

std::string layer_lines(const PairInspection& inspection, bool all) {
    std::map<std::string, LayerGroup> groups;
    for (const auto& layer : inspection.layers) {
        const std::string what = fmt::format("{:<14} {:<14}{}{}", layer.scheme, to_string(layer.shape),
                                             layer.smoothed ? " smoothed" : "",
                                             layer.steps > 1 ? fmt::format(" {} steps", layer.steps) : "");
        LayerGroup& group = groups[all ? what + layer.name : what];
        if (group.count++ == 0) group.first = fmt::format("{}  {}", what, layer.name);
        group.bytes += layer.bytes;
        group.weights += static_cast<std::size_t>(element_count(layer.shape));
    }
    std::string text;
    for (const auto& [key, group] : groups) {
        const double bits = group.weights == 0
                                ? 0.0
                                : 8.0 * static_cast<double>(group.bytes) / static_cast<double>(group.weights);
        text += fmt::format("\n  {:>4} x {}{}  {}, {:.2f} bits per weight", group.count, group.first,
                            group.count > 1 ? " ..." : "", shown(group.bytes), bits);
    }
    return text;
}

std::string float_lines(const PairInspection& inspection, bool all) {
    constexpr std::size_t kShownLayers = 8;
    std::string text;
    std::size_t matrices = 0;
    for (const auto& tensor : inspection.floats) {
        const bool matrix = tensor.shape.size() == 2 && tensor.name.ends_with(".weight");
        if (!all && (!matrix || ++matrices > kShownLayers)) continue;
        text += fmt::format("\n    {} {}{} ({})", tensor.name, to_string(tensor.dtype),
                            to_string(tensor.shape), tensor.why);
    }
    if (matrices > kShownLayers && !all)
        text += fmt::format("\n    ... {} more layers (--all)", matrices - kShownLayers);
    return text;
}

std::map<std::string, std::pair<std::size_t, std::size_t>> by_dtype(const SafetensorsFile& file) {
    std::map<std::string, std::pair<std::size_t, std::size_t>> types;
    for (const auto& name : file.names()) {
        auto& [count, bytes] = types[std::string(to_string(file.info(name).dtype))];
        ++count;
        bytes += file.info(name).bytes();
    }
    return types;
}

std::map<std::string, std::pair<std::size_t, std::size_t>> by_type(const GgufFile& file) {
    std::map<std::string, std::pair<std::size_t, std::size_t>> types;
    for (const GgufTensor& tensor : file.header().tensors) {
        auto& [count, bytes] = types[std::string(tensor.type->name)];
        ++count;
        bytes += static_cast<std::size_t>(tensor.bytes);
    }
    return types;
}

std::size_t total_bytes(const SafetensorsFile& file) {
    std::size_t bytes = 0;
    for (const auto& name : file.names()) bytes += file.info(name).bytes();
    return bytes;
}

// How many Linear layers there are, and which of them quantize would take.
std::string linear_line(const SafetensorsFile& file, std::string_view defaults) {
    const auto linears = linear_layers(WeightFile::of(file));
    const NamePattern by_default(defaults);
    const auto chosen = std::count_if(linears.begin(), linears.end(),
                                      [&](const auto& name) { return by_default.matches(name); });
    return fmt::format("{}, {} of them quantized by default ({})",
                       counted(linears.size(), "float Linear layer"), chosen, defaults);
}

OrderedJson pair_json(const QuantizedPair& pair, const PairInspection& inspection) {
    OrderedJson json = {{"kind", "quantized"},
                        {"description", pair.path().string()},
                        {"weights", pair.weights().path().string()},
                        {"model_quant_type", pair.description().model_quant_type},
                        {"bytes", inspection.bytes},
                        {"bits_per_weight", inspection.bits_per_weight()},
                        {"schemes", inspection.scheme_counts()},
                        {"layers", OrderedJson::array()},
                        {"float_tensors", OrderedJson::array()},
                        {"problems", inspection.problems},
                        {"notes", inspection.notes}};
    if (!pair.program().empty()) json["program"] = pair.program();
    for (const auto& layer : inspection.layers) {
        json["layers"].push_back({{"name", layer.name},
                                  {"scheme", layer.scheme},
                                  {"shape", layer.shape},
                                  {"bytes", layer.bytes},
                                  {"smoothed", layer.smoothed},
                                  {"steps", layer.steps},
                                  {"runs", layer.runs}});
    }
    for (const auto& tensor : inspection.floats) {
        json["float_tensors"].push_back({{"name", tensor.name},
                                         {"dtype", to_string(tensor.dtype)},
                                         {"shape", tensor.shape},
                                         {"why", tensor.why}});
    }
    return json;
}

std::string pair_text(const QuantizedPair& pair, const PairInspection& inspection, bool all) {
    std::string text = pair.program().empty()
                           ? fmt::format("quantized pair, model_quant_type {}\n  {}\n  {} ({})\n",
                                         pair.description().model_quant_type, pair.path().string(),
                                         pair.weights().path().string(), shown(inspection.bytes))
                           : fmt::format("quantized checkpoint as {} has them\n  {} ({})\n", pair.program(),
                                         pair.weights().path().string(), shown(inspection.bytes));
    text += fmt::format("{} quantized layers, {:.2f} bits per weight with scales", inspection.layers.size(),
                        inspection.bits_per_weight());
    text += layer_lines(inspection, all);
    text += fmt::format("\n{} float tensors", inspection.floats.size());
    text += float_lines(inspection, all);
    for (const auto& note : inspection.notes) text += "\nnote: " + note;
    for (const auto& problem : inspection.problems) text += "\nproblem: " + problem;
    if (inspection.problems.empty()) text += "\nno problems";
    return text;
}

OrderedJson tensors_json(const SafetensorsFile& file, const fs::path& config) {
    OrderedJson json = {{"kind", config.empty() ? "safetensors" : "diffusers"},
                        {"weights", file.path().string()},
                        {"bytes", total_bytes(file)},
                        {"linear_layers", linear_layers(WeightFile::of(file))},
                        {"metadata", file.metadata()},
                        {"tensors", OrderedJson::array()}};
    if (!config.empty()) json["config"] = JsonNode::read(config, "inspect").json();
    for (const auto& name : file.names()) {
        const TensorInfo& info = file.info(name);
        json["tensors"].push_back({{"name", printable(name)},
                                   {"dtype", to_string(info.dtype)},
                                   {"shape", info.shape},
                                   {"bytes", info.bytes()}});
    }
    return json;
}

std::string tensors_text(const SafetensorsFile& file, const fs::path& config, const InspectOptions& options) {
    DefaultPatterns defaults;
    std::string text = fmt::format("{}: {}, {}", file.path().string(), counted(file.names().size(), "tensor"),
                                   shown(total_bytes(file)));
    if (!config.empty()) {
        const JsonNode json = JsonNode::read(config, "inspect");
        defaults = default_patterns(json, options.known_families);
        const bool named = json.has("_class_name");
        text += "\n" + (named ? printable(json.at("_class_name").text()) : "model");
        std::string_view before = " with ";
        for (const char* key :
             {"num_layers", "num_single_layers", "num_attention_heads", "attention_head_dim", "ffn_dim",
              "n_layers", "n_refiner_layers", "n_heads", "dim"}) {
            if (!json.contains(key)) continue;
            text += fmt::format("{}{}={}", std::exchange(before, " "), key, show_json(json.at(key).json()));
        }
    }
    for (const auto& [type, sizes] : by_dtype(file)) {
        text += fmt::format("\n  {:<8} {:>6} tensors {:>10}", type, sizes.first, shown(sizes.second));
    }
    text += "\n" + linear_line(file, defaults.layers);
    if (!options.all) return text;
    for (const auto& name : file.names()) {
        const TensorInfo& info = file.info(name);
        text += fmt::format("\n  {} {}{}", printable(name), to_string(info.dtype), to_string(info.shape));
    }
    return text;
}

std::vector<std::int64_t> forwards_by_step(const CalibrationStats& stats, const std::string& layer) {
    std::vector<std::int64_t> counts;
    for (int step = 0; step < stats.steps(); ++step) counts.push_back(stats.forwards(layer, step));
    return counts;
}

float width(const InputRange& range) {
    return range.max - range.min;
}

struct Row {
    std::string layer;
    InputRange range;
    std::int64_t forwards = 0;
    int unmeasured = 0;  ///< steps without a forward
};

std::vector<Row> rows_of(const CalibrationStats& stats) {
    std::vector<Row> rows;
    for (const std::string& layer : stats.layer_names()) {
        Row row{layer, stats.range(layer)};
        for (const std::int64_t count : forwards_by_step(stats, layer)) {
            row.forwards += count;
            row.unmeasured += static_cast<int>(count == 0);
        }
        rows.push_back(std::move(row));
    }
    return rows;
}

OrderedJson calibration_json(const std::string& path, const CalibrationStats& stats) {
    OrderedJson json = {
        {"kind", "calibration"}, {"file", path}, {"steps", stats.steps()}, {"layers", OrderedJson::array()}};
    for (const std::string& layer : stats.layer_names()) {
        OrderedJson by_step = OrderedJson::array();
        for (const InputRange& range : stats.ranges_by_step(layer)) by_step.push_back({range.min, range.max});
        const InputRange range = stats.range(layer);
        json["layers"].push_back({{"name", layer},
                                  {"forwards", forwards_by_step(stats, layer)},
                                  {"range", {range.min, range.max}},
                                  {"range_from_step", std::move(by_step)}});
    }
    return json;
}

std::string calibration_text(const std::string& path, const CalibrationStats& stats, bool all) {
    constexpr std::size_t kWidest = 10;
    std::vector<Row> rows = rows_of(stats);
    std::string text = fmt::format("calibration statistics: {}, {}\n  {}", counted(rows.size(), "layer"),
                                   counted(stats.steps(), "step"), path);
    const auto partly =
        std::count_if(rows.begin(), rows.end(), [](const Row& row) { return row.unmeasured; });
    if (partly != 0) text += fmt::format("\n{} did not run in every step", counted(partly, "layer"));
    if (!all) {
        std::stable_sort(rows.begin(), rows.end(),
                         [](const Row& a, const Row& b) { return width(a.range) > width(b.range); });
        if (rows.size() > kWidest) rows.resize(kWidest);
        text += "\nwidest mean ranges (--all lists every layer):";
    }
    for (const Row& row : rows) {
        text += fmt::format("\n  {:>12.4g} .. {:<12.4g} {:>6} forwards  {}", row.range.min, row.range.max,
                            row.forwards, row.layer);
    }
    return text;
}

bool is_description(const fs::path& path) {
    const std::string name = path.filename().string();
    return has_extension(path, ".json") && !name.ends_with(".safetensors.index.json") &&
           name != "config.json";
}

bool has_description(const fs::path& folder) {
    for (const fs::path& path : folder_entries(folder)) {
        if (path.filename().string().starts_with("quant_model_description")) return true;
    }
    return false;
}

InspectReport inspect_quantized(const fs::path& path, const InspectOptions& options) {
    const QuantizedPair pair = QuantizedPair::open(path, options.rank);
    const PairInspection found = inspect_pair(pair);
    return {pair.path(), pair_json(pair, found), pair_text(pair, found, options.all), found.problems.size()};
}

OrderedJson gguf_json(const GgufFile& file) {
    OrderedJson json = {{"kind", "gguf"},
                        {"weights", file.path().string()},
                        {"version", file.header().version},
                        {"types", OrderedJson::object()},
                        {"metadata", OrderedJson::object()},
                        {"tensors", OrderedJson::array()}};
    for (const auto& [type, sizes] : by_type(file))
        json["types"][type] = {{"tensors", sizes.first}, {"bytes", sizes.second}};
    for (const auto& [key, value] : file.header().metadata)
        json["metadata"][printable(key)] = printable(value);
    for (const GgufTensor& tensor : file.header().tensors) {
        json["tensors"].push_back({{"name", printable(tensor.name)},
                                   {"type", tensor.type->name},
                                   {"shape", tensor.shape},
                                   {"bytes", tensor.bytes}});
    }
    return json;
}

std::string gguf_text(const GgufFile& file, bool all) {
    std::size_t bytes = 0;
    for (const GgufTensor& tensor : file.header().tensors) bytes += static_cast<std::size_t>(tensor.bytes);
    std::string text = fmt::format("{}: GGUF version {}, {}, {}", file.path().string(), file.header().version,
                                   counted(file.header().tensors.size(), "tensor"), shown(bytes));
    for (const auto& [type, sizes] : by_type(file)) {
        const char* what = type == "Q8_0"                                     ? "run as W8A16, groups of 32"
                           : type == "Q4_0"                                   ? "run as W4A16, groups of 32"
                           : type == "F32" || type == "F16" || type == "BF16" ? ""
                                                                              : "become float32";
        text +=
            fmt::format("\n  {:<8} {:>6} tensors {:>10}  {}", type, sizes.first, shown(sizes.second), what);
        text.erase(text.find_last_not_of(' ') + 1);
    }
    if (!all) return text;
    for (const GgufTensor& tensor : file.header().tensors)
        text +=
            fmt::format("\n  {} {}{}", printable(tensor.name), tensor.type->name, to_string(tensor.shape));
    return text;
}

void refuse_rank(const fs::path& path, const InspectOptions& options) {
    if (options.rank < 0) return;
    throw InvalidArgument(
        fmt::format("[inspect] a rank is of quantized files, got {} for {}", options.rank, path.string()));
}

InspectReport inspect_tensors(const fs::path& path, const InspectOptions& options) {
    const SafetensorsFile file = SafetensorsFile::open(weights_of_model("inspect", path));
    if (foreign_checkpoint(file)) return inspect_quantized(file.path(), options);
    refuse_rank(path, options);
    if (CalibrationStats::is_statistics(file)) {
        const CalibrationStats stats = CalibrationStats::load(path);
        return {path, calibration_json(path.string(), stats),
                calibration_text(path.string(), stats, options.all), 0};
    }
    fs::path config = file.path().parent_path() / "config.json";
    if (!is_folder(path) || !path_exists(config)) config.clear();
    return {file.path(), tensors_json(file, config), tensors_text(file, config, options), 0};
}

// The transformer, where there is one, as it is alone; then all components.
InspectReport inspect_pipeline(const fs::path& path, const InspectOptions& options) {
    refuse_rank(path, options);
    const ComponentsReport components = inspect_components(path, options.known_families);
    InspectReport report = {path, {{"kind", "pipeline"}}, "", 0};
    if (is_folder(path / "transformer")) report = inspect_tensors(path, options);
    for (const auto& [key, value] : components.json.items()) report.json[key] = value;
    report.text += (report.text.empty() ? "" : "\n") + components.text;
    return report;
}

}  // namespace

InspectReport inspect(const fs::path& given, const InspectOptions& options) {
    // The index of a pipeline stands for its folder.
    const bool index = given.filename() == "model_index.json" && is_file(given);
    const fs::path path = !index ? given : given.has_parent_path() ? given.parent_path() : ".";
    if (has_extension(path, ".gguf") && !is_folder(path)) {
        refuse_rank(path, options);
        const GgufFile file = GgufFile::open(path);
        return {path, gguf_json(file), gguf_text(file, options.all), 0};
    }
    const bool quantized = is_folder(path) ? has_description(path) : is_description(path);
    if (quantized) return inspect_quantized(path, options);
    const bool pipeline = is_folder(path) && is_file(path / "model_index.json");
    return pipeline ? inspect_pipeline(path, options) : inspect_tensors(path, options);
}

}  // namespace aerogel
