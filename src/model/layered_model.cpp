// Layers by name.
#include "aerogel/layered_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "aerogel/error.h"
#include "quant/layer_patterns.h"

namespace aerogel {
namespace {

template <typename Slot>
Slot& slot_named(const std::string& name, const std::vector<Slot*>& slots, const char* kind,
                 const std::string& family) {
    const auto found =
        std::find_if(slots.begin(), slots.end(), [&](const Slot* slot) { return slot->name == name; });
    if (found != slots.end()) return **found;
    throw InvalidArgument(fmt::format(
        "[{}] the model has no {} {}; it has {} of them{}", family, kind, name, slots.size(),
        slots.empty() ? "" : fmt::format(", from {} to {}", slots.front()->name, slots.back()->name)));
}

template <typename Slot>
std::vector<std::string> names_of(const std::vector<Slot*>& slots) {
    std::vector<std::string> names;
    for (const Slot* slot : slots) names.push_back(slot->name);
    return names;
}

std::string shape_or_none(const Tensor& tensor) {
    return tensor.defined() ? tensor.describe() : "nothing";
}

void check_attention_fits(const std::string& family, const AttentionSlot& slot,
                          const AttentionQuantization& quantization) {
    const std::int64_t d = slot.head_dim;
    const auto fits = [&](const Tensor& rotation) {
        return !rotation.defined() || rotation.shape() == Shape{d, d};
    };
    const auto has = [&](const Tensor& scale) { return scale.defined() && scale.count() == slot.heads; };
    const bool rotations = fits(quantization.q_rotation) && fits(quantization.k_rotation) &&
                           quantization.q_rotation.defined() == quantization.k_rotation.defined();
    const auto& scales = quantization.scales;
    if (rotations && (!scales || (has(scales->q_scale) && has(scales->k_scale) && has(scales->v_scale))))
        return;
    throw InvalidArgument(fmt::format(
        "[{}] {}: rotations must be [{},{}] (both or none) and calibrated scales {} each, got {}, {}, {}",
        family, slot.name, d, d, slot.heads, shape_or_none(quantization.q_rotation),
        shape_or_none(quantization.k_rotation), scales ? shape_or_none(scales->q_scale) : "no scales"));
}

}  // namespace

std::vector<std::string> LayeredModel::linear_names() const {
    return names_of(layers_.linears);
}

std::vector<std::string> LayeredModel::attention_names() const {
    return names_of(layers_.attentions);
}

LinearSlot& LayeredModel::linear_slot(const std::string& name) const {
    return slot_named(name, layers_.linears, "Linear", layers_.family);
}

AttentionSlot& LayeredModel::attention_slot(const std::string& name) const {
    return slot_named(name, layers_.attentions, "attention", layers_.family);
}

const Linear& LayeredModel::linear(const std::string& name) const {
    return *linear_slot(name).layer;
}

std::unique_ptr<Linear> LayeredModel::replace_linear(const std::string& name,
                                                     std::unique_ptr<Linear> linear) {
    LinearSlot& slot = linear_slot(name);
    if (linear == nullptr)
        throw InvalidArgument(fmt::format("[{}] {} cannot be replaced by nothing", layers_.family, name));
    const auto in = slot.layer->in_features();
    const auto out = slot.layer->out_features();
    if (linear->in_features() != in || linear->out_features() != out) {
        throw InvalidArgument(fmt::format("[{}] {} must have {} -> {} features, got {} -> {}", layers_.family,
                                          name, in, out, linear->in_features(), linear->out_features()));
    }
    return std::exchange(slot.layer, std::move(linear));
}

const AttentionSlot& LayeredModel::attention(const std::string& name) const {
    return attention_slot(name);
}

void LayeredModel::set_attention(const std::string& name, std::optional<AttentionQuantization> quantization) {
    AttentionSlot& slot = attention_slot(name);
    if (quantization) check_attention_fits(layers_.family, slot, *quantization);
    slot.quantization = std::move(quantization);
    if (!slot.quantization) return;
    for (Tensor* rotation : {&slot.quantization->q_rotation, &slot.quantization->k_rotation})
        if (rotation->defined()) *rotation = rotation->to(layers_.device);
}

std::string_view LayeredModel::default_layers() const {
    return kDefaultLayers;
}

std::string_view LayeredModel::default_attentions() const {
    return kDefaultAttentions;
}

void LayeredModel::move_weights(WeightPlace place) {
    for (LinearSlot* slot : layers_.linears) slot->layer->move_weight(place);
}

std::size_t LayeredModel::weight_bytes() const {
    std::size_t bytes = layers_.other_bytes;
    for (const LinearSlot* slot : layers_.linears) bytes += slot->layer->weight_bytes();
    return bytes;
}

}  // namespace aerogel
