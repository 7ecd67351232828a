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

// Each after the name that is written; the others are read too.
constexpr std::array<AttentionType, 7> kTypes = {{
    {"FP8_DYNAMIC", AttentionFormat::fp8, false, true, true},
    {"MXFP8_DYNAMIC", AttentionFormat::mxfp8, false, true, false},
    {"MXFP4_DYNAMIC", AttentionFormat::mxfp4, false, true, false},
    {"INT8_DYNAMIC", AttentionFormat::int8, false, false, false},
    {"FAQUANT", AttentionFormat::int8, true, false, false},
    {"FAKQUANT", AttentionFormat::int8, true, false, false},
    {"INT8", AttentionFormat::int8, true, false, false},
}};

}  // namespace

std::optional<AttentionType> find_attention_type(std::string_view name) {
    const std::string wanted = upper_case(name);
    const auto found = std::find_if(kTypes.begin(), kTypes.end(),
                                    [&](const AttentionType& type) { return type.name == wanted; });
    return found == kTypes.end() ? std::nullopt : std::optional(*found);
}

AttentionType attention_type(std::string_view op, std::string_view name) {
    if (const auto type = find_attention_type(name)) return *type;
    throw InvalidArgument(
        fmt::format("[{}] there is no quantized attention '{}'; there are: FP8_DYNAMIC, MXFP8_DYNAMIC, "
                    "MXFP4_DYNAMIC, INT8_DYNAMIC and, calibrated, FAQUANT",
                    op, name));
}

Tensor attention_rotation(std::int64_t head_dim) {
    const Tensor identity = Tensor::zeros(DType::f32, {head_dim, head_dim});
    for (std::int64_t i = 0; i < head_dim; ++i) identity.as<float>()[i * head_dim + i] = 1.0F;
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
