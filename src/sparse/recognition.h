// ARM, the adaptive recognition of RainFusion 1 (arXiv 2505.21036): which of a type's static masks keeps most
// of a head's attention, estimated on a small sample of its queries and keys.
#pragma once

#include <cstdint>
#include <vector>

#include "sparse/head_rows.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

/// `count` tokens out of [0, range), ascending, one from each of `count` equal stretches, at a place inside
/// it that follows the golden ratio: a regular stride would beat with the rows and frames of the video.
std::vector<std::int64_t> spread_sample(std::int64_t range, std::int64_t count);

/// Queries and keys ARM looks at, as places in raster order ([video | text]). Queries are video tokens
/// outside the protected first frame, whose rows no mask touches; keys are any tokens.
struct RecognitionSample {
    std::vector<std::int64_t> queries;
    std::vector<std::int64_t> keys;
};
RecognitionSample recognition_sample(const SparseGeometry& geometry);

/// Per map, the recall of every pattern of `row` and the best of them (the first where equal), or dense where
/// the best is under `min_recall`. InvalidArgument where the sample of q and k is not finite. q and k as they
/// lie; `scale` > 0.
struct RecognitionCall {
    const HeadRows& q;
    const HeadRows& k;
    const SparseTypeRow& row;
    float scale;
    double min_recall;
};
std::vector<SparseHead> recognise_heads(const RecognitionCall& call, const SparseGeometry& geometry);

}  // namespace aerogel
