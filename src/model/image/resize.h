// Pictures in another size, the bytes that Pillow's Image.resize gives: models were trained on what it makes.
#pragma once

#include <cstdint>

#include "model/video/png_file.h"

namespace aerogel {

/// Windowed filters (Pillow's BICUBIC with a = -0.5, and LANCZOS of three lobes), as wide as the shrinking.
enum class ResizeFilter : std::uint8_t { bicubic, lanczos };

/// InvalidArgument when a size is not positive or the picture is empty.
Picture resized(const Picture& picture, std::int64_t height, std::int64_t width, ResizeFilter filter);

/// The part of height x width around the middle (of odd remainders the smaller half is before it).
/// InvalidArgument when the picture is smaller.
Picture cropped_to_middle(const Picture& picture, std::int64_t height, std::int64_t width);

}  // namespace aerogel
