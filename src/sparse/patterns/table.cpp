// Every sparse type there is, and what it can do.
#include <fmt/format.h>

#include <algorithm>

#include "aerogel/error.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

namespace head_patterns {  // each in the file of its name
extern const HeadPattern kDense, kGiven, kSpatial, kTemporal, kTextural, kBlockMean, kAntidiagonal;
}  // namespace head_patterns

namespace {

constexpr std::array kAllFormats = {AttentionFormat::none, AttentionFormat::int8,  AttentionFormat::fp8,
                                    AttentionFormat::mix,  AttentionFormat::mxfp4, AttentionFormat::int8_qk};

constexpr SparseTypeRow kTypes[] = {
    {.name = "none",
     .heads = {&head_patterns::kGiven},
     .reads = {"block_size", "block_size_kv", "centroids"},
     .videos = Videos::ignored,
     .lengths_differ = true,
     .takes_mask = true,
     .own_key_blocks = true,
     .causal = true},
    {.name = "rf_v1",
     .heads = {&head_patterns::kSpatial, &head_patterns::kTemporal, &head_patterns::kTextural},
     .reads = {"sparsity", "block_size", "protect_first_frame", "min_recall", "by_error", "centroids"},
     .videos = Videos::one},
    {.name = "rf_v2",
     .heads = {&head_patterns::kBlockMean},
     .reads = {"sparsity", "block_size", "protect_first_frame", "centroids"},
     .videos = Videos::several,
     .lengths_differ = true,
     .takes_mask = true},
    {.name = "rf_v3",
     .heads = {&head_patterns::kBlockMean},
     .reads = {"sparsity", "block_size", "block_size_kv", "protect_first_frame", "centroids"},
     .videos = Videos::several,
     .lengths_differ = true,
     .takes_mask = true,
     .own_key_blocks = true,
     .formats = kAllFormats},
    {.name = "ada_bsa",
     .heads = {&head_patterns::kAntidiagonal},
     .reads = {"sparsity", "block_size", "cdf_threshold", "keep_sink", "keep_recent", "centroids"},
     .lengths_differ = true,
     .takes_mask = true,
     .causal = true,
     .block_step = 8},
};

}  // namespace

std::span<const HeadPattern* const> SparseTypeRow::head_patterns() const {
    return {heads.begin(), std::find(heads.begin(), heads.end(), nullptr)};
}

const HeadPattern* SparseTypeRow::head_pattern(std::string_view head) const {
    if (head == head_patterns::kDense.name) return &head_patterns::kDense;
    for (const HeadPattern* pattern : head_patterns()) {
        if (pattern->name == head) return pattern;
    }
    return nullptr;
}

bool SparseTypeRow::looks_at(std::string_view parameter) const {
    return std::find(reads.begin(), reads.end(), parameter) != reads.end();
}

bool SparseTypeRow::computes_in(AttentionFormat format) const {
    return std::find(formats.begin(), formats.end(), format) != formats.end();
}

std::span<const SparseTypeRow> sparse_type_rows() {
    return kTypes;
}

const SparseTypeRow& sparse_type_row(std::string_view name) {
    for (const SparseTypeRow& row : kTypes) {
        if (row.name == name) return row;
    }
    throw InvalidArgument(fmt::format("[sparse_attention] sparse type must be one of {}, got \"{}\"",
                                      fmt::join(sparse_types(), ", "), name));
}

std::vector<std::string_view> sparse_types() {
    std::vector<std::string_view> names;
    for (const SparseTypeRow& row : kTypes) names.push_back(row.name);
    return names;
}

std::string types_that(FunctionRef<bool(const SparseTypeRow&)> holds, std::string_view word) {
    std::string text;
    std::string_view last;
    for (const SparseTypeRow& row : kTypes) {
        if (!holds(row)) continue;
        if (!last.empty()) text += (text.empty() ? "" : ", ") + std::string(last);
        last = row.name;
    }
    return text.empty() ? std::string(last) : fmt::format("{} {} {}", text, word, last);
}

}  // namespace aerogel
