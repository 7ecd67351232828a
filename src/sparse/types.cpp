// The table of sparse types, names, and the summary of a report.
#include "sparse/types.h"

#include <array>

#include "aerogel/error.h"

namespace aerogel {
namespace {

constexpr std::array<SparseTypeRow, 5> kSparseTypes = {{
    {SparseType::none, "none", HeadType::given, false, true, true, true, false, true},
    {SparseType::rf_v1, "rf_v1", HeadType::dense, true, false, false, false, false, false},
    {SparseType::rf_v2, "rf_v2", HeadType::block_mean, true, true, true, false, false, false},
    {SparseType::rf_v3, "rf_v3", HeadType::block_mean, true, true, true, true, true, false},
    {SparseType::ada_bsa, "ada_bsa", HeadType::antidiagonal, false, true, true, false, false, true},
}};

constexpr std::array<std::string_view, 7> kHeadTypes = {"dense",      "spatial",      "temporal", "textural",
                                                        "block_mean", "antidiagonal", "given"};

constexpr std::array<std::string_view, 4> kPrecisions = {"bf16", "fp8", "mix", "int8"};

[[noreturn]] void fail_unknown(const std::string& what, const std::string& known, std::string_view name) {
    throw InvalidArgument("[sparse_attention] " + what + " must be one of " + known + ", got \"" +
                          std::string(name) + "\"");
}

}  // namespace

const SparseTypeRow& sparse_type_row(SparseType type) {
    return kSparseTypes.at(static_cast<std::size_t>(type));
}

std::string_view to_string(SparseType type) {
    return sparse_type_row(type).name;
}

std::string_view to_string(HeadType type) {
    return kHeadTypes.at(static_cast<std::size_t>(type));
}

SparseType sparse_type_from(std::string_view name) {
    std::string known;
    for (const SparseTypeRow& row : kSparseTypes) {
        if (row.name == name) return row.type;
        known += (known.empty() ? "" : ", ") + std::string(row.name);
    }
    fail_unknown("sparse type", known, name);
}

SparsePrecision sparse_precision_from(std::string_view name) {
    for (std::size_t i = 0; i < kPrecisions.size(); ++i) {
        if (kPrecisions[i] == name) return static_cast<SparsePrecision>(i);
    }
    fail_unknown("precision", "bf16, fp8, mix, int8", name);
}

double SparseReport::density() const {
    if (heads.empty()) return 1.0;
    double sum = 0.0;
    for (const HeadReport& head : heads) sum += head.density;
    return sum / static_cast<double>(heads.size());
}

}  // namespace aerogel
