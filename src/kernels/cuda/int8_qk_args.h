// What attention with q and k in int8 and v of 16 bits is called with on CUDA.
#pragma once

#include "kernels/cuda/int8_attention_args.h"

namespace aerogel::cuda {

/// One kernel: as FloatAttentionShape, but that q and k have one byte a number, and keys a scale.
struct Int8QkShape {
    int width, query_tiles, keys;

    static constexpr int kMostWarps = 4, kPlaces = 3;
    constexpr int warp_rows() const { return 16 * query_tiles; }
    /// Values take more than keys.
    constexpr int place_bytes() const { return keys * width * 2; }
    /// Shared memory: the plan, largest scores and scales of the queries, the ring, the queries.
    static constexpr int kTops = 512, kRing = kTops + 1024;
    constexpr int queries() const { return kRing + kPlaces * place_bytes(); }
    constexpr int shared_bytes(int warps) const { return queries() + warps * warp_rows() * width; }
};
constexpr Int8QkShape kNarrowInt8Qk = {64, 2, 64}, kMiddleInt8Qk = {128, 2, 32}, kWideInt8Qk = {256, 1, 32};

struct Int8QkArgs {
    FloatAttentionArgs rest;                         ///< its q and k are not used
    const unsigned char *q = nullptr, *k = nullptr;  ///< integers, as Int8Shape says
    const float* q_scale = nullptr;                  ///< [maps, q_len]
};

}  // namespace aerogel::cuda
