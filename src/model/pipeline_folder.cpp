// Reading model_index.json and scheduler_config.json.
#include "model/pipeline_folder.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <string>
#include <string_view>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/text.h"
#include "model/component_list.h"
#include "model/config_values.h"
#include "model/guidance.h"
#include "model/text/prompt_encoder.h"

namespace aerogel {
namespace {

namespace fs = std::filesystem;

constexpr ComponentFile kSecond = {"transformer_2"}, kVae = {"vae"}, kImageEncoder = {"image_encoder"},
                        kScheduler = {"scheduler", "scheduler_config.json"},
                        kImageProcessor = {"image_processor", "preprocessor_config.json"};

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
void read_scheduler(const ComponentList& components, PipelineFolder& folder) {
    if (const std::string why = components.why_not(kScheduler); !why.empty()) {
        if (folder.row == nullptr || folder.row->shift == ShiftRule::none) return;
        throw IoError(fmt::format("{}: it says which noise levels {} takes", why, folder.row->class_name));
    }
    const fs::path path = components.path_of(kScheduler);
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

// Nothing of use comes from a pipeline without what is listed; texts may be replaced by embeddings.
void check_listed(const ComponentList& components) {
    for (const ComponentFile& part : {kSecond, kVae, kScheduler, kImageEncoder, kImageProcessor})
        if (components.lists(part.name) && !components.has(part)) throw IoError(components.why_not(part));
    if (components.does_without("transformer"))
        throw InvalidArgument(components.why_not({"transformer"}) + ": there is nothing to run");
}

SeenPictures read_seen(const fs::path& config) {
    const JsonNode json = JsonNode::read(config, "pipeline");
    SeenPictures seen;
    read_optional_size(json, "image_dim", seen.image_dim);
    read_optional_size(json, "pos_embed_seq_len", seen.pos_embed_seq_len);
    return seen;
}

// Empty, or why prompts cannot be encoded.
std::string reason_without_text(const fs::path& path, const ComponentList& components) {
    if (components.has({"text_encoder", "vocabulary.json"})) return {};  // captions
    for (const ComponentFile& part : {ComponentFile{"text_encoder"}, ComponentFile{"tokenizer", ""}})
        if (std::string why = components.why_not(part); !why.empty()) return why;
    return has_prompt_encoder(path) ? ""
                                    : "[generate] the model folder has no text encoder that Aerogel can run";
}

}  // namespace

PipelineFolder PipelineFolder::read(const fs::path& path) {
    PipelineFolder folder;
    const ComponentList components(path);
    const std::optional<JsonNode>& index = components.index();
    if (index && index->has("_class_name")) {
        folder.row = &pipeline_of(*index);
        folder.defaults = folder.row->defaults;
        if (folder.row->adjust != nullptr) folder.row->adjust(*index, folder.defaults);
    }
    check_listed(components);
    folder.has_vae = components.has(kVae);
    folder.why_no_text = reason_without_text(path, components);
    folder.why_no_image_encoder = components.why_not(kImageEncoder);
    if (folder.why_no_image_encoder.empty())
        folder.why_no_image_encoder = components.why_not(kImageProcessor);
    if (components.has({"transformer"})) folder.seen = read_seen(components.path_of({"transformer"}));
    read_scheduler(components, folder);
    if (index && index->contains("generation")) read_generation(index->at("generation"), folder.sampling);
    if (index && index->has("expand_timesteps"))
        folder.expand_timesteps = index->at("expand_timesteps").flag();
    folder.experts = Experts::read(components);
    return folder;
}

bool PipelineFolder::guides(const SamplingOptions& options) const {
    const double none = no_guidance(guidance_rule());
    return *options.guidance > none || options.guidance_2.value_or(none) > none;
}

double PipelineFolder::shift(double tokens, int steps) const {
    constexpr double kShift = 3.0;
    if (sampling.shift || !dynamic_shift) return sampling.shift.value_or(kShift);
    const double found = mu(*dynamic_shift, row->shift, tokens, steps);
    return dynamic_shift->exponential ? std::exp(found) : found;
}

}  // namespace aerogel
