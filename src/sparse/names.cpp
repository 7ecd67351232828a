// Names of sparse types and head types, and the summary of a report.
#include <array>

#include "aerogel/error.h"
#include "aerogel/sparse_attention.h"

namespace aerogel {
namespace {

constexpr std::array<std::string_view, 3> kSparseTypes = {"none", "rf_v1", "rf_v2"};
constexpr std::array<std::string_view, 5> kHeadTypes = {"dense", "spatial", "temporal", "textural",
                                                        "block_mean"};

}  // namespace

std::string_view to_string(SparseType type) {
    return kSparseTypes.at(static_cast<std::size_t>(type));
}

std::string_view to_string(HeadType type) {
    return kHeadTypes.at(static_cast<std::size_t>(type));
}

SparseType sparse_type_from(std::string_view name) {
    std::string known;
    for (std::size_t i = 0; i < kSparseTypes.size(); ++i) {
        if (kSparseTypes[i] == name) return static_cast<SparseType>(i);
        known += (i == 0 ? "" : ", ") + std::string(kSparseTypes[i]);
    }
    throw InvalidArgument("[sparse_attention] sparse type must be one of " + known + ", got \"" +
                          std::string(name) + "\"");
}

double SparseReport::density() const {
    if (heads.empty()) return 1.0;
    double sum = 0.0;
    for (const HeadReport& head : heads) sum += head.density;
    return sum / static_cast<double>(heads.size());
}

}  // namespace aerogel
