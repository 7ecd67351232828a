// Arguments of the convolution kernel: plain data, the same on the host and on the device.
//
// A patch is a row of the product: its numbers are the channels of its taps, channels padded to fours, cut
// into slabs of 32. The weight is [slabs][rows / 8][parts][4][8][8] bf16: of eight channels of y and a part
// (parts add up to the weight), chunks of eight of a slab's 32 numbers, chunk after chunk, so that eight rows
// of a chunk are one run of 128 bytes. A lane of mma.sync takes four neighbours of x at once, which chooses
// the order within 16 numbers (place_in_step). Channels of y are in neighbour_order (linear_args.h).
#pragma once

#include <cstdint>

namespace aerogel::cuda {

struct PixelSize {
    std::int32_t frames, height, width;
};

struct ConvolutionKernelArgs {
    const float* x;
    const float* before;
    const unsigned char* w;
    const float* bias;  ///< or null
    const float* add;   ///< or null; may be y
    float* y;
    std::int64_t pixels;  ///< of y
    std::int64_t y_frame, y_line, y_pixel;
    PixelSize x_size, y_size, kernel, stride, padding;
    std::int32_t before_frames;
    std::int32_t channels, padded_channels, out_channels;
    std::int32_t slabs;
    std::int32_t column_tiles;
    std::int32_t w_rows;     ///< out_channels, padded to whole tiles
    std::int32_t doubled;    ///< 1 where x counts as twice as high and wide
    std::int32_t x_aligned;  ///< x and before and their pixels at 16 bytes
    std::int32_t y_aligned;  ///< y and add and their pixels
};

constexpr int kConvolutionSlab = 32;  ///< numbers of a patch

/// A block's part of y, and how its warps share it.
struct ConvolutionTile {
    int rows, columns;            ///< pixels and channels of a block
    int warp_rows, warp_columns;  ///< of a warp
    int stages;                   ///< of shared memory
    int threads;
    int parts;  ///< bf16 numbers that stand for one of x or w: 2, or 3, which lose no bit

    constexpr int x_bytes() const { return rows * kConvolutionSlab * 4; }
    constexpr int w_bytes() const { return columns * kConvolutionSlab * 2 * parts; }
    constexpr int stage_bytes() const { return x_bytes() + w_bytes(); }
    /// The stages, and where a row's pixel lies in x and y.
    constexpr int shared_bytes() const { return stages * stage_bytes() + rows * 24; }
};
constexpr ConvolutionTile kWideConvolution = {128, 128, 32, 64, 3, 256, 2};
constexpr ConvolutionTile kNarrowConvolution = {64, 32, 16, 32, 4, 128, 2};
constexpr ConvolutionTile kExactConvolution = {64, 32, 16, 32, 4, 128, 3};

/// The place of number i < 16 of a patch among those of a step of mma.sync.
constexpr int place_in_step(int i) {
    return i % 4 / 2 * 8 + i / 4 * 2 + i % 2;
}

}  // namespace aerogel::cuda
