// The algorithms that are there.
#include <array>
#include <string>

#include "aerogel/error.h"
#include "quant/algorithms/algorithm.h"
#include "quant/algorithms/minmax_weights.h"

namespace aerogel {
namespace {

template <Format kFormat>
QuantizedTensor minmax(const TensorView& weight, const WeightOptions& options) {
    return quantize_minmax(weight, kFormat, options);
}

constexpr std::array<AlgorithmRow, 7> kAlgorithms = {{
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
}};

}  // namespace

std::span<const AlgorithmRow> algorithms() {
    return kAlgorithms;
}

const AlgorithmRow& algorithm_row(std::string_view name, Format format) {
    std::string there;
    for (const AlgorithmRow& row : kAlgorithms) {
        if (row.name == name && row.format == format) return row;
        there += (there.empty() ? "" : ", ") + std::string(row.name) + " (" +
                 std::string(to_string(row.format)) + ")";
    }
    throw InvalidArgument("[quantize] no algorithm '" + std::string(name) + "' writes " +
                          std::string(to_string(format)) + "; there are: " + there);
}

}  // namespace aerogel
