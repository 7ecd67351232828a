// Every sparse type there is, and what it takes.
#pragma once

#include "aerogel/sparse_attention.h"

namespace aerogel {

struct SparseTypeRow {
    SparseType type;
    std::string_view name;
    HeadType head;        ///< what every head becomes; dense: recognised one by one
    bool has_video;       ///< needs a latent shape or spans
    bool lengths_differ;  ///< q and k may differ in length
    bool takes_mask;      ///< SparseOptions::mask
    bool own_key_blocks;  ///< SparseOptions::block_size_k
    bool quantizes;       ///< SparseOptions::precision
    bool causal;          ///< SparseOptions::is_causal
};

const SparseTypeRow& sparse_type_row(SparseType type);

}  // namespace aerogel
