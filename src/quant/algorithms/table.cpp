// The algorithms that are there.
#include <array>
#include <string>

#include "aerogel/error.h"
#include "quant/algorithms/algorithm.h"
#include "quant/algorithms/autoround.h"
#include "quant/algorithms/awq.h"
#include "quant/algorithms/ceil_x.h"
#include "quant/algorithms/clip.h"
#include "quant/algorithms/four_over_six.h"
#include "quant/algorithms/gptq.h"
#include "quant/algorithms/minmax_weights.h"
#include "quant/algorithms/mse_round.h"
#include "quant/algorithms/smoothing.h"
#include "quant/algorithms/ssz.h"

namespace aerogel {
namespace {

constexpr double kPercentile = 99.9;

template <Format kFormat>
QuantizedTensor minmax(const TensorView& weight, const WeightOptions& options) {
    return quantize_minmax(weight, kFormat, options);
}

template <Format kFormat>
QuantizedTensor ssz(const TensorView& weight, const WeightOptions& options) {
    return quantize_ssz(weight, {kFormat, options.group_size, !options.symmetric});
}

template <Format kFormat>
QuantizedTensor mse_clip(const TensorView& weight, const WeightOptions& options) {
    return quantize_mse_clip(weight, {kFormat, options.group_size, !options.symmetric});
}

template <Format kFormat>
QuantizedTensor percentile(const TensorView& weight, const WeightOptions& options) {
    return quantize_percentile(weight, {kFormat, options.group_size, !options.symmetric}, kPercentile);
}

// MX formats have blocks of their own and no offsets.
template <auto kQuantize>
QuantizedTensor mx(const TensorView& weight, const WeightOptions& options) {
    if (options.group_size != 0 || !options.symmetric) {
        throw InvalidArgument(
            "[quantize] MX formats have blocks of 32 columns and no offsets: leave group "
            "size and asymmetry out");
    }
    return kQuantize(weight);
}

QuantizedTensor ceil_x(const TensorView& weight) {
    return quantize_ceil_x_mxfp4(weight);
}

template <Format kFormat>
QuantizedTensor gptq(const TensorView& weight, const TensorView& inputs, const WeightOptions& options) {
    return quantize_gptq(weight, inputs, {{kFormat, options.group_size, !options.symmetric}});
}

template <Format kFormat>
QuantizedTensor autoround(const TensorView& weight, const TensorView& inputs, const WeightOptions& options) {
    return quantize_autoround(weight, inputs, {{kFormat, options.group_size, !options.symmetric}});
}

Tensor smoothquant(const TensorView& weight, const TensorView& inputs, Format, const WeightOptions&) {
    return smoothing_scales({weight}, channel_maxima(inputs), {});
}

Tensor iter_smooth(const TensorView& weight, const TensorView& inputs, Format, const WeightOptions&) {
    return smoothing_scales({weight}, channel_maxima(inputs), {.alpha = 0.9, .beta = 0.1});
}

Tensor flex_smooth(const TensorView& weight, const TensorView& inputs, Format, const WeightOptions&) {
    return smoothing_scales({weight}, channel_maxima(inputs), search_smoothing({weight}, inputs));
}

Tensor awq(const TensorView& weight, const TensorView& inputs, Format format, const WeightOptions& options) {
    return awq_scales(weight, inputs, {format, options.group_size, !options.symmetric}).s;
}

constexpr std::array kAlgorithms = std::to_array<AlgorithmRow>({
    {"minmax", Format::int8, minmax<Format::int8>, "largest magnitude of each row or group becomes 127"},
    {"minmax", Format::int4, minmax<Format::int4>, "largest magnitude of each row or group becomes 7"},
    {"minmax", Format::fp8_e4m3, minmax<Format::fp8_e4m3>,
     "largest magnitude of each row or group becomes 448"},
    {"minmax", Format::fp8_e5m2, minmax<Format::fp8_e5m2>,
     "largest magnitude of each row or group becomes 57344"},
    {"minmax", Format::mxfp8, minmax<Format::mxfp8>, "power of two of each block's largest magnitude"},
    {"minmax", Format::mxfp4, minmax<Format::mxfp4>, "power of two of each block's largest magnitude"},
    {"minmax", Format::mxfp4_dual, minmax<Format::mxfp4_dual>,
     "largest magnitude of 512 columns becomes 6, then as mxfp4"},
    {"ssz", Format::int8, ssz<Format::int8>, "scales by alternating least squares"},
    {"ssz", Format::int4, ssz<Format::int4>, "scales by alternating least squares"},
    {"mse_clip", Format::int8, mse_clip<Format::int8>, "largest magnitudes clipped where it errs least"},
    {"mse_clip", Format::int4, mse_clip<Format::int4>, "largest magnitudes clipped where it errs least"},
    {"percentile", Format::int8, percentile<Format::int8>, "the 99.9th percentile becomes 127"},
    {"percentile", Format::int4, percentile<Format::int4>, "the 99.9th percentile becomes 7"},
    {"mse_round", Format::mxfp8, mx<quantize_mse_round_mxfp8>,
     "exponents rounded to the side that errs less"},
    {"ceil_x", Format::mxfp4, mx<ceil_x>, "largest elements up to 7.25, clipped to 6"},
    {"ceil_x_search", Format::mxfp4, mx<quantize_ceil_x_search_mxfp4>, "the same with the best of 6 .. 12"},
    {"fouroversix", Format::mxfp4, mx<quantize_four_over_six_mxfp4>, "largest element 6 or 4, the better"},
});

constexpr std::array kInputAlgorithms = std::to_array<InputAlgorithmRow>({
    {"gptq", Format::int8, gptq<Format::int8>, "later columns correct what earlier ones lose"},
    {"gptq", Format::int4, gptq<Format::int4>, "later columns correct what earlier ones lose"},
    {"autoround", Format::int8, autoround<Format::int8>, "roundings and scales by signed gradient descent"},
    {"autoround", Format::int4, autoround<Format::int4>, "roundings and scales by signed gradient descent"},
});

constexpr std::array kSmoothings = std::to_array<SmoothingRow>({
    {"smoothquant", smoothquant, "outlier channels moved into the weights, half and half"},
    {"iter_smooth", iter_smooth, "the same with exponents .9 and .1"},
    {"flex_smooth", flex_smooth, "the same with the exponents that err least in W8A8"},
    {"awq", awq, "columns that meet large inputs scaled up as far as it helps (int8, int4)"},
});

}  // namespace

std::span<const AlgorithmRow> algorithms() {
    return kAlgorithms;
}

std::span<const InputAlgorithmRow> input_algorithms() {
    return kInputAlgorithms;
}

std::span<const SmoothingRow> smoothings() {
    return kSmoothings;
}

const InputAlgorithmRow* find_input_algorithm(std::string_view name, Format format) {
    for (const InputAlgorithmRow& row : kInputAlgorithms) {
        if (row.name == name && row.format == format) return &row;
    }
    return nullptr;
}

const SmoothingRow* find_smoothing(std::string_view name) {
    for (const SmoothingRow& row : kSmoothings) {
        if (row.name == name) return &row;
    }
    return nullptr;
}

const AlgorithmRow& algorithm_row(std::string_view name, Format format) {
    std::string there;
    for (const AlgorithmRow& row : kAlgorithms) {
        if (row.name == name && row.format == format) return row;
        there += (there.empty() ? "" : ", ") + std::string(row.name) + " (" +
                 std::string(to_string(row.format)) + ")";
    }
    if (find_input_algorithm(name, format) != nullptr || find_smoothing(name) != nullptr) {
        throw InvalidArgument("[quantize] algorithm '" + std::string(name) +
                              "' needs recorded inputs; without, there are: " + there);
    }
    throw InvalidArgument("[quantize] no algorithm '" + std::string(name) + "' writes " +
                          std::string(to_string(format)) + "; there are: " + there);
}

}  // namespace aerogel
