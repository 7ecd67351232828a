// The unquantized formats. They carry no scales, so that a float weight fits where a quantized one does.
#include <cstring>

#include "aerogel/number_types.h"
#include "formats/format.h"

namespace aerogel {
namespace {

void float32_elements(const QuantizedTensor& weight, const Slice& slice, float* out) {
    const auto* data =
        static_cast<const float*>(weight.data.data()) + slice.row * weight.columns + slice.first;
    std::memcpy(out, data, static_cast<std::size_t>(slice.count) * sizeof(float));
}

void bfloat16_elements(const QuantizedTensor& weight, const Slice& slice, float* out) {
    const auto* data =
        static_cast<const BFloat16*>(weight.data.data()) + slice.row * weight.columns + slice.first;
    for (std::int64_t i = 0; i < slice.count; ++i) out[i] = to_float(data[i]);
}

std::string float_problem(const QuantizedTensor& weight) {
    const DType dtype = format_row(weight.format).storage;
    const Shape shape = {weight.rows, weight.columns};
    if (!weight.data.defined() || weight.data.dtype() != dtype || weight.data.shape() != shape) {
        return "data must be " + TensorView{dtype, shape, nullptr, {}, Device::cpu}.describe() + ", got " +
               (weight.data.defined() ? weight.data.describe() : "nothing");
    }
    if (weight.scale.defined() || weight.offset.defined() || weight.dual_scale.defined() ||
        weight.group_size != 0) {
        return "a float format has neither scales nor offset nor groups";
    }
    return "";
}

}  // namespace

extern const FormatRow kFloat32Format, kBFloat16Format;
constexpr FormatRow kFloat32Format = {Format::f32,      "f32",   DType::f32,
                                      float32_elements, nullptr, float_problem};
constexpr FormatRow kBFloat16Format = {Format::bf16,      "bf16",  DType::bf16,
                                       bfloat16_elements, nullptr, float_problem};

}  // namespace aerogel
