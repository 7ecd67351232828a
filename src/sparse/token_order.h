// Orders of the tokens of one side of a call. An order is a permutation: order[place] is the token of the
// call's sequence that stands at `place` inside, where all text is behind the videos. The protected first
// frame of a video always comes first. Written down in docs/sparse_attention.md.
#pragma once

#include <cstdint>
#include <vector>

#include "sparse/geometry.h"

namespace aerogel {

using TokenOrder = std::vector<std::int32_t>;

/// Frame by frame, row by row (t h w), one video after the other.
TokenOrder raster_order(const SparseGeometry& geometry);

/// 8x8 windows within a frame: (f hn hb wn wb) -> (f hn wn hb wb). When the height or the width is no
/// multiple of 8, the first frame stays as it is and every other frame is: the windows of its multiple-of-8
/// part, the remaining rows (whole), the remaining columns (of the multiple-of-8 rows).
TokenOrder windowed_order(const SparseGeometry& geometry);

/// Each place of the picture through all frames (h w t), behind the protected first frame. One video.
TokenOrder frame_last_order(const SparseGeometry& geometry);

/// Protected first frame, then in t h w order the tokens on the checkerboard, then all others. One video.
TokenOrder checkerboard_order(const SparseGeometry& geometry);
/// Whether a place of the frame is on the checkerboard: Bayer's 8x8 ordered dither with the
/// ceil(64 * (1 - sparsity)) lowest thresholds; at half density that is the checkerboard itself.
bool on_checkerboard(std::int64_t row, std::int64_t column, double sparsity);
/// Video tokens on the checkerboard, without the protected first frame.
std::int64_t checkerboard_tokens(const SparseGeometry& geometry);

/// inverse[order[i]] == i.
TokenOrder inverse_order(const TokenOrder& order);

}  // namespace aerogel
