// How a camera was held: EXIF's orientation (CIPA DC-008) in .jpg, .png and .webp files. Not read is what
// stands for it elsewhere: XMP, and the raw profiles in the texts of PNG files.
#pragma once

#include <string_view>

#include "model/video/png_file.h"

namespace aerogel {

/// 1 (upright) to 8, of the bytes of a file; 1 where they are of another kind, are broken, or do not tell.
int exif_orientation(std::string_view file);

/// The picture as it was seen, from its rows as they are stored: what Pillow's ImageOps.exif_transpose gives
/// for this orientation.
Picture upright(Picture picture, int orientation);

}  // namespace aerogel
