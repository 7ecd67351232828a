// ARM, the adaptive recognition of RainFusion 1 (arXiv 2505.21036): which of a type's static masks keeps most
// of a head's attention, or changes its output least, estimated on a small sample of its queries and keys.
#pragma once

#include <cstdint>
#include <vector>

#include "sparse/head_rows.h"
#include "sparse/plan_tables.h"

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

/// The same as tokens of the call's sequence, and the size of the blocks of masks over them.
struct SampledTokens {
    std::vector<std::int64_t> queries;
    std::vector<std::int64_t> keys;
    std::int64_t block = 0;
};
SampledTokens sampled_tokens(const SparseGeometry& geometry);

/// Per map, the recall of every pattern of the tables but the last and the best of them (the first where
/// equal), or the last, which is dense, where the best has less than `min_recall`. Best is the largest recall
/// or, with v, the least error of the sampled queries' outputs over the sampled keys; where v is not finite,
/// again the recall. NaN and dense where the sample of q and k is not finite. q, k and v as they lie;
/// `scale` > 0.
struct RecognitionCall {
    const HeadRows& q;
    const HeadRows& k;
    const PlanTables& tables;
    float scale;
    double min_recall;
    Context context;
    const HeadRows* v = nullptr;
};
struct RecognisedHeads {
    double* recalls;       ///< [maps, patterns - 1], where the tables lie
    std::int32_t* choice;  ///< [maps]
};
void recognise_heads(const RecognitionCall& call, const RecognisedHeads& heads);

}  // namespace aerogel
