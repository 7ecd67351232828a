// Types, ranges of q, k and v, and the step's say.
#include "quant/attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "core/text.h"
#include "quant/algorithms/hadamard.h"
#include "quant/algorithms/model_dtype.h"
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
    return Rotation(head_dim, {RotationKind::hadamard, -1}, kSeed).rotated_inputs(identity).to(DType::bf16);
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

// --- ranges of q, k and v

namespace {

constexpr double kRatio = 0.9999;

std::vector<float> values_of_head(const TensorView& x, std::int64_t head) {
    const std::int64_t heads = x.dim(2), d = x.dim(3), rows = x.dim(0) * x.dim(1);
    std::vector<float> values;
    values.reserve(static_cast<std::size_t>(rows * d));
    const auto* data = static_cast<const float*>(x.data);
    for (std::int64_t row = 0; row < rows; ++row) {
        const float* from = data + (row * heads + head) * d;
        values.insert(values.end(), from, from + d);
    }
    return values;
}

}  // namespace

InputRange shortest_range(std::vector<float> values, double ratio) {
    if (values.empty() || !(ratio > 0.0 && ratio <= 1.0)) {
        throw InvalidArgument(
            fmt::format("[calibrate] the shortest range needs values and a ratio of (0, 1], got "
                        "{} values and {}",
                        values.size(), ratio));
    }
    std::sort(values.begin(), values.end());
    const auto all = static_cast<double>(values.size());
    const std::size_t count = std::max<std::size_t>(static_cast<std::size_t>(ratio * all), 1);
    std::size_t best = 0;
    for (std::size_t first = 1; first + count <= values.size(); ++first) {
        if (values[first + count - 1] - values[first] < values[best + count - 1] - values[best]) best = first;
    }
    return {values[best], values[best + count - 1]};
}

void AttentionRanges::observe(const std::string& attention, const TensorView& q, const TensorView& k,
                              const TensorView& v) {
    auto& ranges = ranges_[attention];
    const std::array<const TensorView*, 3> parts = {&q, &k, &v};
    for (std::size_t part = 0; part < parts.size(); ++part) {
        const TensorView& x = *parts.at(part);
        const bool fits = x.dtype == DType::f32 && x.shape.size() == 4 && x.contiguous() && x.count() != 0;
        if (!fits) {
            throw InvalidArgument(
                fmt::format("[calibrate] attention of {} must have f32 [batch,tokens,heads,head_dim], got {}",
                            attention, x.describe()));
        }
        const auto* data = static_cast<const float*>(x.data);
        if (!std::all_of(data, data + x.count(), [](float value) { return std::isfinite(value); })) {
            throw InvalidArgument(fmt::format("[calibrate] attention of {} is not finite", attention));
        }
        auto& own = ranges.at(part);
        own.resize(static_cast<std::size_t>(x.dim(2)));
        parallel_for(x.dim(2), [&](std::int64_t head, int) {
            const InputRange seen = shortest_range(values_of_head(x, head), part == 2 ? 1.0 : kRatio);
            InputRange& range = own[static_cast<std::size_t>(head)];
            range = {std::min(range.min, seen.min), std::max(range.max, seen.max)};
        });
    }
}

AttentionScales AttentionRanges::scales(const std::string& attention) const {
    const auto found = ranges_.find(attention);
    if (found == ranges_.end()) {
        throw InvalidArgument(fmt::format("[calibrate] attention of {} was not measured", attention));
    }
    std::array<Tensor, 3> scales;
    for (std::size_t part = 0; part < scales.size(); ++part) {
        const PerHead& ranges = found->second.at(part);
        scales.at(part) = Tensor(DType::f32, {static_cast<std::int64_t>(ranges.size())});
        std::transform(ranges.begin(), ranges.end(), scales.at(part).mutable_as<float>(),
                       [](const InputRange& range) {
                           return std::max(std::max(-range.min, range.max) / 127.0F, kSmallestScale);
                       });
    }
    return {scales[0], scales[1], scales[2], {}, {}, {}};
}

// --- in a step

AttentionOptions attention_options(const std::optional<AttentionQuantization>& quantization,
                                   const TimestepPolicyConfig* policy, int timestep_index) {
    AttentionOptions options;
    if (!quantization) return options;
    options.format = policy == nullptr ? quantization->format
                                       : policy->attention_format(quantization->format, timestep_index);
    if (options.format == AttentionFormat::none) return options;
    // The float formats are to give what their files were made for; int8 has no such model to follow.
    options.smooth_k = options.format == AttentionFormat::int8;
    if (quantization->q_rotation.defined()) {
        options.q_rotation = quantization->q_rotation;
        options.k_rotation = quantization->k_rotation;
    }
    if (options.format == AttentionFormat::int8 && quantization->scales)
        options.scales = &*quantization->scales;
    return options;
}

}  // namespace aerogel
