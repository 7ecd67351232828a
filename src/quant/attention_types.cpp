// The types of quantized attention.
#include "quant/attention_types.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "aerogel/error.h"
#include "quant/algorithms/hadamard.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

constexpr std::int64_t kSeed = 1234;

std::string type_names(bool calibrated) {
    std::string names;
    for (const AttentionFormatRow& row : kAttentionFormats) {
        const std::string_view name = calibrated ? row.static_types[0] : row.file_type;
        if (!name.empty()) names += (names.empty() ? "" : ", ") + std::string(name);
    }
    return names;
}

}  // namespace

std::optional<AttentionType> find_attention_type(std::string_view name) {
    const std::string wanted = upper_case(name);
    if (wanted.empty()) return std::nullopt;
    for (const AttentionFormatRow& row : kAttentionFormats) {
        if (row.file_type == wanted)
            return AttentionType{row.file_type, row.format, false, row.rotates, row.needs_rotation};
        for (const std::string_view calibrated : row.static_types)
            if (calibrated == wanted) return AttentionType{calibrated, row.format, true, false, false};
    }
    return std::nullopt;
}

AttentionType attention_type(std::string_view op, std::string_view name) {
    if (const auto type = find_attention_type(name)) return *type;
    throw InvalidArgument(
        fmt::format("[{}] there is no quantized attention '{}'; there are: {} and, calibrated, {}", op, name,
                    dynamic_attention_types(), type_names(true)));
}

std::string dynamic_attention_types() {
    return type_names(false);
}

Tensor attention_rotation(std::int64_t head_dim) {
    Tensor identity = Tensor::zeros(DType::f32, {head_dim, head_dim});
    for (std::int64_t i = 0; i < head_dim; ++i) identity.mutable_as<float>()[i * head_dim + i] = 1.0F;
    return Rotation(head_dim, -1, kSeed).rotated_inputs(identity).to(DType::bf16);
}

AttentionQuantization dynamic_attention(const AttentionType& type, std::int64_t head_dim) {
    AttentionQuantization attention;
    attention.quant_type = type.name;
    attention.format = type.format;
    if (type.rotates) attention.q_rotation = attention.k_rotation = attention_rotation(head_dim);
    return attention;
}

std::map<std::string, Tensor> attention_tensors(const AttentionQuantization& attention) {
    std::map<std::string, Tensor> tensors;
    if (attention.q_rotation.defined()) {
        tensors = {{"q_rot", attention.q_rotation}, {"k_rot", attention.k_rotation}};
    }
    if (!attention.scales) return tensors;
    const AttentionScales& scales = *attention.scales;
    const std::array<std::pair<const char*, const Tensor*>, 3> parts = {
        {{"fa_q", &scales.q_scale}, {"fa_k", &scales.k_scale}, {"fa_v", &scales.v_scale}}};
    for (const auto& [name, scale] : parts) {
        const Shape shape = {scale->count(), 1};
        tensors[std::string(name) + ".scale"] = scale->reshaped(shape);
        tensors[std::string(name) + ".offset"] = Tensor::zeros(DType::f32, shape);
    }
    return tensors;
}

}  // namespace aerogel
