// Reading model_index.json and scheduler_config.json.
#include "model/pipeline_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <string>
#include <string_view>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/text/prompt_encoder.h"

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

// FlowMatchEulerDiscreteScheduler.
void read_euler(const fs::path& path, const JsonNode& scheduler, PipelineFolder& folder) {
    for (const char* key : {"invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
                            "stochastic_sampling"})
        require(path, scheduler, {key, false});
    folder.sampling.sampler = SamplerKind::euler;
    read(scheduler, "shift", folder.sampling.shift);
    if (scheduler.has("shift_terminal")) {
        const double terminal = scheduler.at("shift_terminal").number(0.0, 1.0);
        if (terminal > 0.0) folder.terminal = terminal;  // 0 means none, as in diffusers
    }
    if (!scheduler.has("use_dynamic_shifting") || !scheduler.at("use_dynamic_shifting").flag()) return;
    if (folder.row == nullptr || folder.row->shift == ShiftRule::none) {
        throw Unsupported(fmt::format(
            "[pipeline] {}: use_dynamic_shifting = true is not supported for this pipeline", path.string()));
    }
    constexpr double kMost = 1e6;
    DynamicShift& shift = folder.dynamic_shift.emplace();
    const auto take = [&](const char* key, double& value) {
        if (scheduler.has(key)) value = scheduler.at(key).number(-kMost, kMost);
    };
    take("base_shift", shift.base_shift);
    take("max_shift", shift.max_shift);
    take("base_image_seq_len", shift.base_tokens);
    take("max_image_seq_len", shift.max_tokens);
    if (shift.base_tokens == shift.max_tokens)
        scheduler.at("max_image_seq_len").fail("different from base_image_seq_len");
    if (scheduler.has("time_shift_type")) {
        constexpr std::array<std::string_view, 2> kTypes = {"exponential", "linear"};
        shift.exponential = scheduler.at("time_shift_type").word(kTypes) == "exponential";
    }
    folder.sampling.shift.reset();
}

void read_unipc(const fs::path& path, const JsonNode& scheduler, PipelineFolder& folder) {
    for (const Only& only :
         {Only{"prediction_type", "flow_prediction"}, Only{"use_flow_sigmas", true}, Only{"solver_order", 2},
          Only{"solver_type", "bh2"}, Only{"predict_x0", true}, Only{"lower_order_final", true},
          Only{"final_sigmas_type", "zero"}, Only{"use_dynamic_shifting", false}}) {
        require(path, scheduler, only);
    }
    folder.sampling.sampler = SamplerKind::unipc;
    read(scheduler, "flow_shift", folder.sampling.shift);
}

// Without a scheduler the noise levels are those of Wan; of the other pipelines nobody knows them then.
void read_scheduler(const fs::path& path, PipelineFolder& folder) {
    if (!path_exists(path)) {
        if (folder.row == nullptr || folder.row->shift == ShiftRule::none) return;
        throw IoError(fmt::format("[pipeline] {} does not exist: it says which noise levels {} takes",
                                  path.string(), folder.row->class_name));
    }
    const JsonNode scheduler = JsonNode::read(path, "pipeline");
    require(path, scheduler, {"num_train_timesteps", 1000});
    const std::string name = scheduler.has("_class_name") ? scheduler.at("_class_name").text() : "";
    if (name == "FlowMatchEulerDiscreteScheduler") return read_euler(path, scheduler, folder);
    if (name == "UniPCMultistepScheduler") return read_unipc(path, scheduler, folder);
    throw Unsupported(
        fmt::format("[pipeline] {}: _class_name must be UniPCMultistepScheduler or "
                    "FlowMatchEulerDiscreteScheduler, got {}",
                    path.string(), in_quotes(name)));
}

void read_generation(const JsonNode& generation, SamplingOptions& sampling) {
    if (!generation.is_object()) generation.fail("an object");
    read(generation, "num_frames", sampling.frames);
    read(generation, "height", sampling.height);
    read(generation, "width", sampling.width);
    read(generation, "num_inference_steps", sampling.steps);
    read(generation, "guidance_scale", sampling.guidance);
    read(generation, "flow_shift", sampling.shift);
    read(generation, "image_first", sampling.image_first);
    read(generation, "stagger", sampling.stagger);
}

double mu(const DynamicShift& shift, ShiftRule rule, double tokens, int steps) {
    if (rule == ShiftRule::linear) {
        const double slope = (shift.max_shift - shift.base_shift) / (shift.max_tokens - shift.base_tokens);
        return tokens * slope + shift.base_shift - slope * shift.base_tokens;
    }
    // Fitted at 200 and at 10 steps, on a line between them; large pictures take that of 200.
    const double at_200 = 0.00016927 * tokens + 0.45666666;
    if (tokens > 4300.0) return at_200;
    const double at_10 = 8.73809524e-05 * tokens + 1.89833333;
    const double slope = (at_200 - at_10) / 190.0;
    return slope * steps + at_200 - 200.0 * slope;
}

// A component of model_index.json, and what there is of one at the least.
struct ListedPart {
    const char* name;
    const char* file;
};

// diffusers writes [null, null] for a component that a pipeline does without.
bool lists(const JsonNode& index, const ListedPart& part) {
    if (!index.contains(part.name)) return false;
    const nlohmann::json& entry = index.at(part.name).json();
    return !entry.is_null() && !(entry.is_array() && entry.size() == 2 && entry[1].is_null());
}

// Empty, or which component is listed and not there.
std::string missing(const fs::path& folder, const JsonNode& index, std::span<const ListedPart> parts) {
    for (const ListedPart& part : parts) {
        const fs::path file = folder / part.name / part.file;
        if (lists(index, part) && !path_exists(file))
            return fmt::format("{} lists {}, but {} does not exist", index.where(), part.name, file.string());
    }
    return {};
}

// Nothing of use comes from a pipeline without them; texts may be replaced by embeddings.
constexpr ListedPart kNeeded[] = {{"transformer_2", "config.json"},
                                  {"vae", "config.json"},
                                  {"scheduler", "scheduler_config.json"},
                                  {"image_encoder", "config.json"},
                                  {"image_processor", "preprocessor_config.json"}};
constexpr ListedPart kOfText[] = {{"text_encoder", "config.json"}, {"tokenizer", ""}};

}  // namespace

PipelineFolder PipelineFolder::read(const fs::path& path) {
    PipelineFolder folder;
    const fs::path index_path = path / "model_index.json";
    folder.has_vae = path_exists(path / "vae" / "config.json");
    std::optional<JsonNode> index;
    if (path_exists(index_path)) index = JsonNode::read(index_path, "pipeline");
    if (index && index->has("_class_name")) {
        folder.row = &pipeline_of(*index);
        folder.defaults = folder.row->defaults;
        if (folder.row->adjust != nullptr) folder.row->adjust(*index, folder.defaults);
    }
    if (index) {
        if (const std::string what = missing(path, *index, kNeeded); !what.empty()) throw IoError(what);
        if (!has_captions(path)) folder.missing_text = missing(path, *index, kOfText);
    }
    read_scheduler(path / "scheduler" / "scheduler_config.json", folder);
    if (index && index->contains("generation")) read_generation(index->at("generation"), folder.sampling);
    if (index && index->has("expand_timesteps"))
        folder.expand_timesteps = index->at("expand_timesteps").flag();
    if (index) folder.experts = Experts::read(path);
    return folder;
}

double PipelineFolder::shift(double tokens, int steps) const {
    constexpr double kShift = 3.0;
    if (sampling.shift || !dynamic_shift) return sampling.shift.value_or(kShift);
    const double found = mu(*dynamic_shift, row->shift, tokens, steps);
    return dynamic_shift->exponential ? std::exp(found) : found;
}

}  // namespace aerogel
