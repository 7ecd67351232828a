// Which steps and which blocks are sparse.
#include <algorithm>

#include "aerogel/sparse_config.h"

namespace aerogel {

bool SparseConfig::is_sparse(int block, int step) const {
    if (pattern.type == "none") return false;
    if (step >= 0 && (step < start_step || (end_step >= 0 && step >= end_step))) return false;
    return std::find(skip_layers.begin(), skip_layers.end(), block) == skip_layers.end();
}

}  // namespace aerogel
