// The table of text encoders, and what all of them do around their blocks.
#include "model/text/text_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/views.h"
#include "model/quantize.h"
#include "model/text/language_model.h"
#include "model/text/t5_encoder.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

using LoadModel = std::unique_ptr<TextModel> (*)(const std::filesystem::path& folder,
                                                 const LoadOptions& options);

struct TextModelRow {
    std::string_view architecture;  ///< of config.json
    LoadModel load;
};

// A class with a head has the same model below it; the head is left aside.
constexpr TextModelRow kTextModels[] = {
    {"Qwen3ForCausalLM", load_qwen3},
    {"Qwen3Model", load_qwen3},
    {"Qwen2_5_VLForConditionalGeneration", load_qwen2_5_vl},
    {"Qwen2_5_VLModel", load_qwen2_5_vl},
    {"UMT5EncoderModel", load_umt5},
    {"T5EncoderModel", load_t5},
};

LoadModel model_of(const JsonNode& config) {
    std::vector<std::string_view> known;
    for (const TextModelRow& row : kTextModels) known.push_back(row.architecture);
    const JsonNode names = config.at("architectures");
    const std::vector<JsonNode> items = names.items("a list of one class");
    if (items.size() != 1) names.fail("a list of one class");
    const std::string& name = items.front().word(known);
    return std::find_if(std::begin(kTextModels), std::end(kTextModels),
                        [&](const TextModelRow& row) { return row.architecture == name; })
        ->load;
}

// [ids, dim] in float32. Ids and table are on the host, whatever the device.
Tensor embed(std::span<const std::int32_t> ids, const Tensor& table, Device device, const Context& context) {
    const std::int64_t dim = table.dim(1);
    Tensor rows(DType::f32, {static_cast<std::int64_t>(ids.size()), dim});
    std::int64_t row = 0;
    for (const std::int32_t id : ids)
        copy(rows_of(table.view(), id, 1), rows_of(rows.mutable_view(), row++, 1), context);
    return rows.to(device);
}

}  // namespace

std::unique_ptr<TextModel> TextModel::load(const std::filesystem::path& folder, const LoadOptions& options) {
    std::unique_ptr<TextModel> model =
        model_of(JsonNode::read(folder / "config.json", "text encoder"))(folder, options);
    quantize_as_loaded(*model, options);
    return model;
}

std::vector<Tensor> TextModel::hidden_states(std::span<const std::int32_t> ids, std::int64_t real_length,
                                             std::span<const std::int64_t> layers,
                                             const StepContext& step) const {
    const auto count = static_cast<std::int64_t>(ids.size());
    const auto fail = [&](const std::string& what) {
        throw InvalidArgument(fmt::format("[{}] {}", parts_.family, what));
    };
    if (real_length < 1 || real_length > count)
        fail(fmt::format("there must be 1 to {} tokens that are no padding, got {}", count, real_length));
    for (const std::int32_t id : ids)
        if (id < 0 || id >= vocabulary())
            fail(fmt::format("ids must be below {}, the rows of the embeddings, got {}", vocabulary(), id));
    for (const std::int64_t layer : layers)
        if (layer < 0 || layer > parts_.layers)
            fail(fmt::format("layers are 0 to {}, got {}", parts_.layers, layer));

    Tensor hidden = embed(ids, parts_.embeddings, parts_.device, step.call);
    std::vector<Tensor> results(layers.size());
    const auto after = [&](std::int64_t blocks) {
        for (std::size_t i = 0; i < layers.size(); ++i) {
            if (layers[i] != blocks) continue;
            Tensor result = hidden.clone();
            if (blocks == parts_.layers)
                normalize(hidden, parts_.final_norm, result, {{}, real_length, step});
            if (!all_finite(result, step.call)) {
                check_intact();
                fail(fmt::format("the hidden states of layer {} are not finite: look at the weights up to it",
                                 blocks));
            }
            results[i] = result.reshaped({1, count, dim()});
        }
    };
    after(0);
    const std::int64_t highest = layers.empty() ? 0 : *std::max_element(layers.begin(), layers.end());
    run({hidden, real_length, step}, highest, after);
    check_intact();
    return results;
}

void TextModel::set_parts(Parts parts) {
    parts_ = std::move(parts);
    set_layers({parts_.family, parts_.linears, {}, parts_.other_bytes, parts_.device});
}

TextModel::Buffers::Buffers(const TextBlock& block, const Pass& pass) {
    const auto rows = [&](std::int64_t columns) {
        return Tensor(DType::f32, {pass.hidden.dim(0), columns}, pass.hidden.device);
    };
    normed = rows(pass.hidden.dim(1));
    q = rows(block.q.layer->out_features());
    k = rows(block.k.layer->out_features());
    v = rows(block.v.layer->out_features());
    o = rows(block.o.layer->in_features());
    gate = rows(block.gate.layer->out_features());
    up = rows(block.up.layer->out_features());
}

void TextModel::project(const TextBlock& block, const Pass& pass, Buffers& buffers) const {
    normalize(pass.hidden, block.attention_norm, buffers.normed, pass);
    block.q.layer->forward(buffers.normed, buffers.q, pass.step);
    block.k.layer->forward(buffers.normed, buffers.k, pass.step);
    block.v.layer->forward(buffers.normed, buffers.v, pass.step);
}

void TextModel::add_attention(const TextBlock& block, const Pass& pass, Buffers& buffers) const {
    block.o.layer->forward(buffers.o, buffers.normed, pass.step);
    residual(pass.hidden, buffers.normed, {}, pass.step.call);
}

void TextModel::feed_forward(const TextBlock& block, ActivationFunction activation, const Pass& pass,
                             Buffers& buffers) const {
    normalize(pass.hidden, block.ffn_norm, buffers.normed, pass);
    block.gate.layer->forward(buffers.normed, buffers.gate, pass.step);
    block.up.layer->forward(buffers.normed, buffers.up, pass.step);
    gated(activation, buffers.gate, buffers.up, buffers.gate, pass.step.call);
    block.down.layer->forward(buffers.gate, buffers.normed, pass.step);
    residual(pass.hidden, buffers.normed, {}, pass.step.call);
}

void TextModel::normalize(const TensorView& x, const Tensor& weight, const MutableView& y,
                          const Pass& pass) const {
    norm({.kind = NormKind::rms, .x = x, .y = y, .weight = weight, .epsilon = parts_.epsilon},
         pass.step.call);
}

std::string_view TextModel::default_layers() const {
    return kTextLayers;
}

void TextModel::check_intact() const {
    for (const WeightFile& file : parts_.files) file.check_intact();
}

}  // namespace aerogel
