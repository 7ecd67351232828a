// The algorithms that are there.
#include <array>
#include <string>

#include "aerogel/error.h"
#include "quant/algorithms/algorithm.h"
#include "quant/algorithms/minmax.h"

namespace aerogel {
namespace {

constexpr std::array<AlgorithmRow, 1> kAlgorithms = {{
    {"minmax", Format::int8, quantize_minmax_int8, "largest magnitude of each row becomes 127"},
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
