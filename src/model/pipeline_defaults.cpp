// Defaults from model_index.json and scheduler_config.json.
#include "model/pipeline_defaults.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/paths.h"
#include "core/text.h"

namespace aerogel {
namespace {

namespace fs = std::filesystem;

void read(const JsonNode& json, const char* key, std::optional<int>& value) {
    constexpr Bounds kSizes = {1, 1 << 20};
    if (json.has(key)) value = static_cast<int>(json.at(key).whole(kSizes));
}

void read(const JsonNode& json, const char* key, std::optional<double>& value) {
    constexpr double kMost = 1e6;
    if (json.has(key)) value = json.at(key).number(-kMost, kMost);
}

void read(const JsonNode& json, const char* key, std::optional<bool>& value) {
    if (json.has(key)) value = json.at(key).flag();
}

// A setting of which only one value is supported.
struct Only {
    const char* key;
    nlohmann::json value;
};

void require(const fs::path& path, const JsonNode& json, const Only& only) {
    if (!json.contains(only.key) || json.at(only.key).json() == only.value) return;
    throw Unsupported(fmt::format("[pipeline] {}: only {} = {} is supported, got {}", path.string(), only.key,
                                  only.value.dump(), show_json(json.at(only.key).json())));
}

void read_scheduler(const fs::path& path, SamplingOptions& defaults) {
    if (!path_exists(path)) return;
    const JsonNode scheduler = JsonNode::read(path, "pipeline");
    require(path, scheduler, {"num_train_timesteps", 1000});
    require(path, scheduler, {"use_dynamic_shifting", false});
    const std::string name = scheduler.has("_class_name") ? scheduler.at("_class_name").text() : "";
    if (name == "FlowMatchEulerDiscreteScheduler") {
        defaults.sampler = SamplerKind::euler;
        read(scheduler, "shift", defaults.shift);
        return;
    }
    if (name != "UniPCMultistepScheduler") {
        throw Unsupported(
            fmt::format("[pipeline] {}: _class_name must be UniPCMultistepScheduler or "
                        "FlowMatchEulerDiscreteScheduler, got {}",
                        path.string(), in_quotes(name)));
    }
    for (const Only& only : {Only{"prediction_type", "flow_prediction"}, Only{"use_flow_sigmas", true},
                             Only{"solver_order", 2}, Only{"solver_type", "bh2"}, Only{"predict_x0", true},
                             Only{"lower_order_final", true}, Only{"final_sigmas_type", "zero"}}) {
        require(path, scheduler, only);
    }
    defaults.sampler = SamplerKind::unipc;
    read(scheduler, "flow_shift", defaults.shift);
}

void read_model_index(const fs::path& path, SamplingOptions& defaults) {
    if (!path_exists(path)) return;
    const JsonNode index = JsonNode::read(path, "pipeline");
    if (!index.contains("generation")) return;
    const JsonNode generation = index.at("generation");
    if (!generation.is_object()) generation.fail("an object");
    read(generation, "num_frames", defaults.frames);
    read(generation, "height", defaults.height);
    read(generation, "width", defaults.width);
    read(generation, "num_inference_steps", defaults.steps);
    read(generation, "guidance_scale", defaults.guidance);
    read(generation, "flow_shift", defaults.shift);
    read(generation, "image_first", defaults.image_first);
    read(generation, "stagger", defaults.stagger);
}

}  // namespace

SamplingOptions read_pipeline_defaults(const std::filesystem::path& folder) {
    SamplingOptions defaults;
    read_scheduler(folder / "scheduler" / "scheduler_config.json", defaults);
    read_model_index(folder / "model_index.json", defaults);
    return defaults;
}

}  // namespace aerogel
