// One row per member.
#include "sparse/parameters.h"

namespace aerogel {
namespace {

bool any(const SparsePattern&) {
    return true;
}

constexpr SparseParameter kParameters[] = {
    {"sparsity", &SparsePattern::sparsity, "at least 0 and less than 1",
     [](const SparsePattern& p) { return p.sparsity >= 0.0 && p.sparsity < 1.0; },
     "share of the blocks to skip, at least 0 and less than 1"},
    {"block_size", &SparsePattern::block_size, "16 to 128",
     [](const SparsePattern& p) { return p.block_size >= 16 && p.block_size <= 128; },
     "tokens per block, 16 to 128"},
    {"block_size_kv", &SparsePattern::block_size_kv, "16 to 256",
     [](const SparsePattern& p) {
         return p.block_size_kv == 0 || p.block_size_kv == p.block_size ||
                (p.block_size_kv >= 16 && p.block_size_kv <= 256);
     },
     "tokens per key block, 16 to 256 (0: the same as block_size)"},
    {"protect_first_frame", &SparsePattern::protect_first_frame, "", any,
     "do not force the first frame to be dense"},
    {"min_recall", &SparsePattern::min_recall, "0 to 1",
     [](const SparsePattern& p) { return p.min_recall >= 0.0 && p.min_recall <= 1.0; },
     "heads whose best mask keeps less of their attention than this share stay dense"},
    {"cdf_threshold", &SparsePattern::cdf_threshold, "more than 0 and at most 1",
     [](const SparsePattern& p) { return p.cdf_threshold > 0.0 && p.cdf_threshold <= 1.0; },
     "share of each row's attention to reach, greater than 0, at most 1"},
    {"keep_sink", &SparsePattern::keep_sink, "", any, "the first key block may be skipped"},
    {"keep_recent", &SparsePattern::keep_recent, "", any, "the last key block may be skipped"},
    {"by_error", &SparsePattern::by_error, "", any,
     "choose the mask of a head by the error of its output on a sample, not by what it keeps"},
    {"centroids", &SparsePattern::centroids, "", any,
     "skipped blocks count as their mean key and mean value"},
};

}  // namespace

std::span<const SparseParameter> sparse_parameters() {
    return kParameters;
}

}  // namespace aerogel
