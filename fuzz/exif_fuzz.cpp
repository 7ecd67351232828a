// Any bytes as a picture with EXIF: one of the eight orientations, and every one of them keeps the pixels.
#include <algorithm>
#include <cstdlib>

#include "model/video/orientation.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    const int found = exif_orientation({reinterpret_cast<const char*>(data), size});
    if (found < 1 || found > 8) std::abort();
    const Picture picture = {2, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18}};
    Picture seen = upright(picture, found);
    std::sort(seen.pixels.begin(), seen.pixels.end());
    if (seen.pixels != picture.pixels) std::abort();
    return 0;
}
