// Any quantized matrix back to float32, through its format's elements and scales.
#include <algorithm>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "formats/format.h"

namespace aerogel {

QuantizedTensor QuantizedTensor::to(Device device) const {
    QuantizedTensor moved = *this;
    for (Tensor* tensor : {&moved.data, &moved.scale, &moved.offset, &moved.dual_scale})
        if (tensor->defined()) *tensor = tensor->to(device);
    return moved;
}

Groups::Groups(const QuantizedTensor& weight) {
    const std::int64_t columns = std::max<std::int64_t>(weight.columns, 1);
    width = weight.group_size == 0 ? columns : weight.group_size;
    count = (columns + width - 1) / width;
}

void decode_row(const QuantizedTensor& weight, std::int64_t row, float* out) {
    const FormatRow& format = format_row(weight.format);
    format.elements(weight, {row, 0, weight.columns}, out);
    if (format.scale == nullptr) return;
    const Groups groups(weight);
    for (std::int64_t group = 0; group < groups.count; ++group) {
        const float scale = format.scale(weight, row, group);
        const float zero =
            weight.offset.defined() ? weight.offset.as<float>()[row * groups.count + group] : 0.0F;
        const std::int64_t first = group * groups.width;
        const std::int64_t end = std::min(first + groups.width, weight.columns);
        for (std::int64_t i = first; i < end; ++i) out[i] = (out[i] - zero) * scale;
    }
    if (!weight.dual_scale.defined()) return;
    const auto* dual = weight.dual_scale.as<float>() + row * weight.dual_scale.dim(1);
    for (std::int64_t i = 0; i < weight.columns; ++i) out[i] *= dual[i / weight.dual_block];
}

Tensor dequantize(const QuantizedTensor& weight) {
    const FormatRow& format = format_row(weight.format);
    if (const std::string problem = format.problem(weight); !problem.empty()) {
        throw InvalidArgument("[dequantize] " + std::string(format.name) + ": " + problem);
    }
    Tensor out(DType::f32, {weight.rows, weight.columns});
    auto* values = out.mutable_as<float>();
    parallel_for(weight.rows,
                 [&](std::int64_t i, int) { decode_row(weight, i, values + i * weight.columns); });
    return out;
}

}  // namespace aerogel
