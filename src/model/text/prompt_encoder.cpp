// The table of pipelines and how they make embeddings of a prompt, after diffusers' encode_prompt of each.
#include "model/text/prompt_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/tokenizer.h"
#include "core/json.h"
#include "core/paths.h"
#include "core/views.h"
#include "model/text/caption_table.h"
#include "model/text/clean_text.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

/// What becomes of the places up to max_tokens.
enum class Padding : std::uint8_t {
    none,     ///< they are left out
    zeros,    ///< zeros in the result
    encoded,  ///< the model reads padding tokens there
};

struct PromptRow {
    std::string_view pipeline;       ///< _class_name of model_index.json
    std::string_view before, after;  ///< the chat template around the prompt
    bool clean;                      ///< clean_prompt()
    std::int64_t max_tokens;         ///< of the template and the prompt
    std::int64_t dropped;            ///< tokens at the front that the transformer does not see
    Padding padding;
    std::array<std::int64_t, 3> layers;  ///< of hidden_states, joined; negative ones from the end
    std::size_t layer_count;
};

constexpr std::string_view kUser = "<|im_start|>user\n", kAssistant = "<|im_end|>\n<|im_start|>assistant\n",
                           kNoThoughts = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
                           kDescribe =
                               "<|im_start|>system\nDescribe the image by detailing the color, shape, size, "
                               "texture, quantity, text, spatial relationships of the objects and "
                               "background:<|im_end|>\n<|im_start|>user\n";

// Lengths are those of the calls of the pipelines, which some of their functions have other defaults for.
constexpr PromptRow kPrompts[] = {
    {"WanPipeline", "", "", true, 512, 0, Padding::zeros, {-1}, 1},
    {"WanImageToVideoPipeline", "", "", true, 512, 0, Padding::zeros, {-1}, 1},
    {"ZImagePipeline", kUser, kAssistant, false, 512, 0, Padding::none, {-2}, 1},
    {"Flux2KleinPipeline", kUser, kNoThoughts, false, 512, 0, Padding::encoded, {9, 18, 27}, 3},
    {"QwenImagePipeline", kDescribe, kAssistant, false, 34 + 512, 34, Padding::none, {-1}, 1},
};

const PromptRow* row_named(const std::string& pipeline) {
    const auto found = std::find_if(std::begin(kPrompts), std::end(kPrompts),
                                    [&](const PromptRow& row) { return row.pipeline == pipeline; });
    return found == std::end(kPrompts) ? nullptr : &*found;
}

class ModelEncoder final : public PromptEncoder {
  public:
    ModelEncoder(const PromptRow& row, const std::filesystem::path& folder, const LoadOptions& options)
        : row_(row),
          tokenizer_(Tokenizer::load(folder / "tokenizer")),
          model_(TextModel::load(folder / "text_encoder", options)) {
        for (std::size_t i = 0; i < row.layer_count; ++i) {
            const std::int64_t layer = row.layers[i];
            layers_.push_back(layer < 0 ? model_->layers() + 1 + layer : layer);
            if (layers_.back() >= 0 && layers_.back() <= model_->layers()) continue;
            throw InvalidArgument(
                fmt::format("[text encoder] {} takes hidden states {}, the model in {} has {}", row.pipeline,
                            layer, (folder / "text_encoder").string(), model_->layers() + 1));
        }
    }

    Tensor encode(const std::string& prompt) const override {
        const Encoding text = tokens(prompt);
        const std::int64_t real = std::count(text.mask.begin(), text.mask.end(), 1);
        if (real <= row_.dropped)
            throw InvalidArgument(fmt::format(
                "[text encoder] a prompt of {} must have more than {} tokens with its template, got {}",
                row_.pipeline, row_.dropped, real));
        const std::vector<Tensor> states = model_->hidden_states(text.ids, real, layers_);
        const std::int64_t rows = states[0].dim(1) - row_.dropped, dim = states[0].dim(2);
        const auto joined = static_cast<std::int64_t>(states.size()) * dim;
        const std::int64_t length = row_.padding == Padding::zeros ? row_.max_tokens : rows;
        Tensor result = Tensor::zeros(DType::f32, {1, length, joined}, model_->device());
        for (std::size_t i = 0; i < states.size(); ++i)
            copy(
                part_of(states[i].view(), row_.dropped * dim, {rows, dim}),
                part_of(result.mutable_view(), static_cast<std::int64_t>(i) * dim, {rows, dim}, {joined, 1}));
        return result;
    }

    std::size_t weight_bytes() const override { return model_->weight_bytes(); }
    TextModel* model() override { return model_.get(); }

  private:
    Encoding tokens(const std::string& prompt) const {
        std::string text(row_.before);
        text += row_.clean ? clean_prompt(prompt) : prompt;
        text += row_.after;
        Encoding encoding =
            tokenizer_.encode(text, {.max_length = row_.max_tokens, .pad = row_.padding == Padding::encoded});
        if (encoding.mask.empty() || encoding.mask.front() == 0)
            throw Unsupported(
                "[text encoder] padding on the left and texts without tokens are not supported, look at "
                "padding_side in tokenizer_config.json");
        return encoding;
    }

    const PromptRow& row_;
    Tokenizer tokenizer_;
    std::unique_ptr<TextModel> model_;
    std::vector<std::int64_t> layers_;
};

/// The learned tables of the demo's captions.
class CaptionEncoder final : public PromptEncoder {
  public:
    CaptionEncoder(const std::filesystem::path& folder, Device device)
        : encoder_(CaptionTable::load(folder)), device_(device) {}

    Tensor encode(const std::string& prompt) const override { return encoder_.encode(prompt).to(device_); }
    std::size_t weight_bytes() const override { return encoder_.weight_bytes(); }
    TextModel* model() override { return nullptr; }

  private:
    CaptionTable encoder_;
    Device device_;
};

}  // namespace

bool has_captions(const std::filesystem::path& folder) {
    return path_exists(folder / "text_encoder" / "vocabulary.json");
}

std::unique_ptr<PromptEncoder> PromptEncoder::load(const std::filesystem::path& folder,
                                                   const LoadOptions& options) {
    if (has_captions(folder) && (options.online || !options.quantized.empty())) {
        throw InvalidArgument(
            fmt::format("[text encoder] {}: captions of a vocabulary have no layers to {}", folder.string(),
                        options.online ? "quantize" : "take from " + options.quantized.string()));
    }
    if (has_captions(folder))
        return std::make_unique<CaptionEncoder>(folder / "text_encoder", options.device);
    const JsonNode index = JsonNode::read(folder / "model_index.json", "text encoder");
    std::vector<std::string_view> known;
    for (const PromptRow& row : kPrompts) known.push_back(row.pipeline);
    return std::make_unique<ModelEncoder>(*row_named(index.at("_class_name").word(known)), folder, options);
}

bool has_prompt_encoder(const std::filesystem::path& folder) {
    if (has_captions(folder)) return true;
    if (!path_exists(folder / "model_index.json") || !path_exists(folder / "text_encoder" / "config.json"))
        return false;
    const JsonNode index = JsonNode::read(folder / "model_index.json", "text encoder");
    return index.has("_class_name") && row_named(index.at("_class_name").text()) != nullptr;
}

}  // namespace aerogel
