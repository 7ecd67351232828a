// Finding out what a path is, and reporting it.
#include "model/inspect.h"

#include "core/paths.h"
#include "model/inspect_calibration.h"
#include "model/inspect_report.h"
#include "model/model_files.h"
#include "quant/inspection.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

bool is_description(const fs::path& path) {
    const std::string name = path.filename().string();
    return path.extension() == ".json" && !name.ends_with(".safetensors.index.json") && name != "config.json";
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

InspectReport inspect_tensors(const fs::path& path, const InspectOptions& options) {
    const SafetensorsFile file = SafetensorsFile::open(weights_of_model("inspect", path));
    if (CalibrationStats::is_statistics(file)) {
        const CalibrationStats stats = CalibrationStats::load(path);
        return {path, calibration_json(path.string(), stats),
                calibration_text(path.string(), stats, options.all), 0};
    }
    fs::path config = file.path().parent_path() / "config.json";
    if (!is_folder(path) || !path_exists(config)) config.clear();
    return {file.path(), tensors_json(file, config), tensors_text(file, config, options), 0};
}

}  // namespace

InspectReport inspect(const fs::path& path, const InspectOptions& options) {
    const bool quantized = is_folder(path) ? has_description(path) : is_description(path);
    return quantized ? inspect_quantized(path, options) : inspect_tensors(path, options);
}

}  // namespace aerogel
