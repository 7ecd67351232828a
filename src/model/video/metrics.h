// How close two videos or tensors are.
#pragma once

#include <span>

#include "model/video/video_file.h"

namespace aerogel {

/// Distances of b to the reference a over all elements (double accumulation).
struct Distance {
    double cosine = 1.0;       ///< a.b / (|a| |b|); 1 when both are zero
    double relative_l1 = 0.0;  ///< sum|a-b| / sum|a|
    double relative_l2 = 0.0;  ///< |a-b| / |a|
    double largest = 0.0;      ///< max|a-b|
};
Distance distance(std::span<const float> a, std::span<const float> b);
/// Of pixels in [0, 1]; both have one size.
Distance distance(const Frames& a, const Frames& b);

/// Peak signal-to-noise ratio in dB over all frames, peak 255; infinity when equal.
double psnr(const Frames& a, const Frames& b);
/// Mean structural similarity over frames and channels: Gaussian window 11x11, sigma 1.5, K1 = 0.01, K2 =
/// 0.03 (Wang et al., IEEE TIP 2004), valid positions only; frames smaller than the window use one global
/// window.
double ssim(const Frames& a, const Frames& b);

}  // namespace aerogel
