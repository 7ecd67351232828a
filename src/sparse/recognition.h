// ARM, the adaptive recognition of RainFusion 1 (arXiv 2505.21036): which of the three static masks
// keeps most of a head's attention, estimated on a small sample of its queries and keys.
#pragma once

#include <array>
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

struct Recognition {
    HeadType type = HeadType::dense;
    double recall = 0.0;                 ///< of the best mask; NaN where the sample of q and k is not finite
    std::array<double, 3> recalls = {};  ///< of each
};

/// One of HeadType::spatial, temporal, textural per map (the first of the best in this order), or dense where
/// its recall is under `min_recall`. q and k are the call's; `scale` > 0.
std::vector<Recognition> recognise_heads(const HeadRows& q, const HeadRows& k, const SparseGeometry& geometry,
                                         float scale, double min_recall);

}  // namespace aerogel
