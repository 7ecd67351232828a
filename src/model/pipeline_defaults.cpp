// Defaults from model_index.json and scheduler_config.json.
#include "model/pipeline_defaults.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "aerogel/error.h"
#include "core/paths.h"
#include "model/json_file.h"

namespace aerogel {
namespace {

using Json = nlohmann::json;

class Section {
  public:
    Section(std::filesystem::path path, Json json) : path_(std::move(path)), json_(std::move(json)) {}

    void read(const char* key, std::optional<int>& value) const {
        const auto entry = json_.find(key);
        if (entry == json_.end() || entry->is_null()) return;
        if (!entry->is_number_integer() || *entry < 1 || *entry > std::numeric_limits<int>::max()) {
            wrong_json_value("pipeline", path_, key, "a positive whole number", *entry);
        }
        value = entry->get<int>();
    }

    void read(const char* key, std::optional<double>& value) const {
        const auto entry = json_.find(key);
        if (entry == json_.end() || entry->is_null()) return;
        if (!entry->is_number()) wrong_json_value("pipeline", path_, key, "a number", *entry);
        value = entry->get<double>();
    }

    void read(const char* key, std::optional<bool>& value) const {
        const auto entry = json_.find(key);
        if (entry == json_.end() || entry->is_null()) return;
        if (!entry->is_boolean()) wrong_json_value("pipeline", path_, key, "true or false", *entry);
        value = entry->get<bool>();
    }

    /// Unsupported when the key is there with another value than the only one that is implemented.
    void require(const char* key, const Json& only) const {
        const auto entry = json_.find(key);
        if (entry == json_.end() || *entry == only) return;
        throw Unsupported(fmt::format("[pipeline] {}: only {} = {} is implemented, got {}", path_.string(),
                                      key, only.dump(), entry->dump()));
    }

    std::string text(const char* key) const {
        const auto entry = json_.find(key);
        return entry != json_.end() && entry->is_string() ? entry->get<std::string>() : std::string();
    }

  private:
    std::filesystem::path path_;
    Json json_;
};

void read_scheduler(const std::filesystem::path& path, GenerateOptions& defaults) {
    if (!path_exists(path)) return;
    const Section scheduler(path, read_json_object(path));
    const std::string name = scheduler.text("_class_name");
    scheduler.require("num_train_timesteps", 1000);
    scheduler.require("use_dynamic_shifting", false);
    if (name == "FlowMatchEulerDiscreteScheduler") {
        defaults.sampler = SamplerKind::euler;
        scheduler.read("shift", defaults.shift);
        return;
    }
    if (name != "UniPCMultistepScheduler") {
        throw Unsupported(
            fmt::format("[pipeline] {}: _class_name must be UniPCMultistepScheduler or "
                        "FlowMatchEulerDiscreteScheduler, got '{}'",
                        path.string(), name));
    }
    scheduler.require("prediction_type", "flow_prediction");
    scheduler.require("use_flow_sigmas", true);
    scheduler.require("solver_order", 2);
    scheduler.require("solver_type", "bh2");
    scheduler.require("predict_x0", true);
    scheduler.require("lower_order_final", true);
    scheduler.require("final_sigmas_type", "zero");
    defaults.sampler = SamplerKind::unipc;
    scheduler.read("flow_shift", defaults.shift);
}

void read_model_index(const std::filesystem::path& path, GenerateOptions& defaults) {
    if (!path_exists(path)) return;
    const Json json = read_json_object(path);
    const auto entry = json.find("generation");
    if (entry == json.end()) return;
    if (!entry->is_object()) wrong_json_value("pipeline", path, "generation", "an object", *entry);
    const Section generation(path, *entry);
    generation.read("num_frames", defaults.frames);
    generation.read("height", defaults.height);
    generation.read("width", defaults.width);
    generation.read("num_inference_steps", defaults.steps);
    generation.read("guidance_scale", defaults.guidance);
    generation.read("flow_shift", defaults.shift);
    generation.read("image_first", defaults.image_first);
    generation.read("stagger", defaults.stagger);
}

}  // namespace

GenerateOptions read_pipeline_defaults(const std::filesystem::path& folder) {
    GenerateOptions defaults;
    read_scheduler(folder / "scheduler" / "scheduler_config.json", defaults);
    read_model_index(folder / "model_index.json", defaults);
    return defaults;
}

}  // namespace aerogel
