// The sizes of one sparse call: video latent, text, blocks, and what is always computed in full.
// Inside, the sequence is [video | text] and cut into uniform blocks of `block` tokens. A block that
// holds any text token or, when protected, any token of the first frame is kept as row and as column.
#pragma once

#include <cstdint>
#include <vector>

#include "aerogel/sparse_attention.h"

namespace aerogel {

struct SparseGeometry {
    LatentShape latent;
    std::int64_t txt_len = 0;
    std::int64_t block = 128;
    double sparsity = 0.0;
    bool protect_first_frame = true;

    std::int64_t video() const { return latent.tokens(); }
    std::int64_t tokens() const { return video() + txt_len; }
    std::int64_t blocks() const { return (tokens() + block - 1) / block; }
    std::int64_t video_blocks() const { return (video() + block - 1) / block; }
    /// Tokens of the protected first frame; they come first in every order.
    std::int64_t protected_tokens() const { return protect_first_frame ? latent.height * latent.width : 0; }
    /// First block behind the protected first frame.
    std::int64_t protected_end() const { return (protected_tokens() + block - 1) / block; }
    /// First block with a text token; blocks() without text. When the video does not fill its last
    /// block, that block holds text as well and is kept in full.
    std::int64_t text_begin() const { return txt_len == 0 ? blocks() : video() / block; }
    bool always_kept(std::int64_t index) const { return index < protected_end() || index >= text_begin(); }
};

/// Which blocks are computed: [blocks, blocks] bytes of 0 and 1, rows are query blocks.
using BlockGrid = std::vector<std::uint8_t>;

/// Sets the rows and the columns that are always kept.
void keep_protected(const SparseGeometry& geometry, BlockGrid& grid);

}  // namespace aerogel
