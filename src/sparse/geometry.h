// The sizes of one side, queries or keys, of a sparse call: its videos, the other tokens (text), blocks, and
// what is always computed in full. Inside, a side is [video | video ... | text].
#pragma once

#include <cstdint>
#include <vector>

#include "aerogel/sparse_attention.h"

namespace aerogel {

struct SparseGeometry {
    std::vector<VideoSpan> videos;  ///< ascending, disjoint
    std::int64_t tokens = 0;
    std::int64_t block = 128;
    double sparsity = 0.0;
    bool protect_first_frame = true;

    /// Tokens of all videos.
    std::int64_t video() const;
    std::int64_t blocks() const { return (tokens + block - 1) / block; }
    /// Blocks of all videos, each cut for itself.
    std::int64_t video_blocks() const;

    // The rest is for sides of one video (rf_v1), where blocks are cut through [video | text]. A block that
    // holds any text token or, when protected, any token of the first frame is kept as row and as column.
    const LatentShape& latent() const { return videos.front().latent; }
    /// Tokens of the protected first frame; they come first in every order.
    std::int64_t protected_tokens() const {
        return protect_first_frame ? latent().height * latent().width : 0;
    }
    /// First block behind the protected first frame.
    std::int64_t protected_end() const { return (protected_tokens() + block - 1) / block; }
    /// First block with a text token; blocks() without text. When the video does not fill its last
    /// block, that block holds text as well and is kept in full.
    std::int64_t text_begin() const { return tokens == video() ? blocks() : video() / block; }
    bool always_kept(std::int64_t index) const { return index < protected_end() || index >= text_begin(); }
};

struct SparseSides {
    SparseGeometry q, k;
};

/// The tokens (inside) that a row or a column of a pattern's mask stands for.
struct Cell {
    std::int64_t begin = 0;
    std::int64_t end = 0;
    bool always_kept = false;
};
using Cells = std::vector<Cell>;

/// Blocks cut in each video and in the text for itself; kept are the first ceil(height*width/block) of each
/// video, when protected, and those of the text.
Cells pooled_cells(const SparseGeometry& side);
/// Blocks cut through the whole inside order; kept are those that share a token with a kept pooled cell.
Cells inside_cells(const SparseGeometry& side);
/// Blocks cut through the call's sequence as it is; kept are those with a token outside of the videos.
Cells natural_cells(const SparseGeometry& side);

bool all_kept(const Cells& cells);

/// Which cells are computed: [query cells, key cells] bytes of 0 and 1.
using BlockGrid = std::vector<std::uint8_t>;

/// Sets the rows and the columns that are always kept (one video, uniform blocks).
void keep_protected(const SparseGeometry& geometry, BlockGrid& grid);

}  // namespace aerogel
