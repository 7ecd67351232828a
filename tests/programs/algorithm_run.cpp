// One offline algorithm on one layer, for tests/quant/algorithms: algorithm_run NAME INPUT OUTPUT
// [NUMBERS...] reads "weight" and, where needed, "x" from a safetensors file and writes what the algorithm
// gives. NAME: a row of the tables as "row:NAME:FORMAT" or "inputs:NAME:FORMAT GROUP", or one of those below.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "formats/format.h"
#include "quant/algorithms/algorithm.h"
#include "quant/algorithms/awq.h"
#include "quant/algorithms/ceil_x.h"
#include "quant/algorithms/clip.h"
#include "quant/algorithms/gptq.h"
#include "quant/algorithms/hadamard.h"
#include "quant/algorithms/low_rank.h"
#include "quant/algorithms/output_error.h"
#include "quant/algorithms/smoothing.h"
#include "quant/algorithms/ssz.h"

namespace {

using namespace aerogel;
using Tensors = std::map<std::string, Tensor>;

struct Call {
    SafetensorsFile file;
    std::vector<double> numbers;

    Tensor weight() const { return file.tensor("weight"); }
    Tensor x() const { return file.tensor("x"); }
    std::int64_t integer(std::size_t i) const { return static_cast<std::int64_t>(numbers.at(i)); }
    /// BITS GROUP OFFSET, the first three numbers.
    IntegerOptions grid() const {
        return {integer(0) == 4 ? Format::int4 : Format::int8, integer(1), integer(2) != 0};
    }
};

Format format_of(const std::string& name) {
    for (const FormatRow& row : formats()) {
        if (row.name == name) return row.format;
    }
    throw InvalidArgument("[algorithm_run] no format " + name);
}

Tensors tensors_of(const QuantizedTensor& weight) {
    Tensors result{{"data", weight.data}, {"scale", weight.scale}, {"decoded", dequantize(weight)}};
    if (weight.offset.defined()) result["offset"] = weight.offset;
    return result;
}

Tensor numbers(const std::vector<double>& values) {
    Tensor tensor(DType::f64, {static_cast<std::int64_t>(values.size())});
    std::copy(values.begin(), values.end(), tensor.mutable_as<double>());
    return tensor;
}

// W diag(s) in its own type.
Tensor smoothed(const Tensor& weight, const Tensor& s) {
    return scale_columns(weight.to(DType::f32), s).to(weight.dtype());
}

Tensors smooth(const Call& call) {
    const Tensor s = smoothing_scales({call.weight()}, channel_maxima(call.x()),
                                      {call.numbers.at(0), call.numbers.at(1), call.numbers.at(2)});
    return {{"s", s}, {"weight", smoothed(call.weight(), s)}, {"mul_scale", mul_scale_of(s)}};
}

Tensors smooth_search(const Call& call) {
    const SmoothingOptions best = search_smoothing({call.weight()}, call.x());
    return {{"exponents", numbers({best.alpha, best.beta})}};
}

Tensors awq(const Call& call) {
    const AwqResult result = awq_scales(call.weight(), call.x(), call.grid());
    return {{"s", result.s}, {"found", numbers({result.ratio, result.error, result.plain_error})}};
}

Tensors low_rank(const Call& call) {
    LowRankOptions options;
    options.rank = call.integer(0);
    options.seed = static_cast<std::uint64_t>(call.integer(1));
    const LowRank split = split_low_rank(call.weight(), options);
    return {{"l1", split.l1}, {"l2", split.l2}, {"residual", split.residual}};
}

Tensors hadamard(const Call& call) {
    const Rotation rotation(call.weight().dim(1), {RotationKind::hadamard, call.integer(0)},
                            call.integer(1) != 0 ? 7 : -1);
    return {{"weight", rotation.rotated_inputs(call.weight()).to(call.weight().dtype())},
            {"x", rotation.rotated_inputs(call.x())},
            {"signs", rotation.signs()}};
}

const std::map<std::string, std::function<Tensors(const Call&)>> kCalls = {
    {"ceil_x",
     [](const Call& c) {
         return tensors_of(quantize_ceil_x_mxfp4(c.weight(), static_cast<float>(c.numbers.at(0))));
     }},
    {"ssz",
     [](const Call& c) {
         return tensors_of(quantize_ssz(c.weight(), c.grid(), static_cast<int>(c.integer(3))));
     }},
    {"percentile",
     [](const Call& c) { return tensors_of(quantize_percentile(c.weight(), c.grid(), c.numbers.at(3))); }},
    {"mse_clip", [](const Call& c) { return tensors_of(quantize_mse_clip(c.weight(), c.grid())); }},
    {"gptq",
     [](const Call& c) {
         return tensors_of(quantize_gptq(c.weight(), c.x(), {c.grid(), c.numbers.at(3), c.integer(4)}));
     }},
    {"smooth", smooth},
    {"smooth_search", smooth_search},
    {"awq", awq},
    {"low_rank", low_rank},
    {"hadamard", hadamard},
};

Tensors run_row(const std::string& name, const Call& call) {
    const std::size_t first = name.find(':'), last = name.rfind(':');
    const std::string algorithm = name.substr(first + 1, last - first - 1);
    const Format format = format_of(name.substr(last + 1));
    if (name.starts_with("row:"))
        return tensors_of(algorithm_row(algorithm, format).quantize(call.weight(), {}));
    const WeightOptions options = {call.integer(0), true};
    if (const InputAlgorithmRow* row = find_input_algorithm(algorithm, format)) {
        return tensors_of(row->quantize(call.weight(), call.x(), options));
    }
    if (const SmoothingRow* row = find_smoothing(algorithm)) {
        const Tensor s = row->scales(call.weight(), call.x(), format, options);
        const Tensor scaled = smoothed(call.weight(), s);
        Tensors result = tensors_of(algorithm_row("minmax", format).quantize(scaled, options));
        result["mul_scale"] = mul_scale_of(s);
        return result;
    }
    throw InvalidArgument("[algorithm_run] no row " + name);
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 4) return 2;
    try {
        Call call{SafetensorsFile::open(arguments[2]), {}};
        for (int i = 4; i < count; ++i) call.numbers.push_back(std::atof(arguments[i]));
        const std::string name = arguments[1];
        const Tensors result =
            name.find(':') == std::string::npos ? kCalls.at(name)(call) : run_row(name, call);
        save_safetensors(arguments[3], result);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
