// Any bytes as a PNG file: either a refusal, or a picture with as many pixels as it says.
#include "aerogel/error.h"
#include "model/video/png_file.h"
#include "temporary_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    try {
        const Picture picture = read_png(fuzz_file("frame.png", {data, size}));
        const auto pixels = static_cast<std::size_t>(picture.height * picture.width);
        if (picture.pixels.size() != 3 * pixels) std::abort();
    } catch (const Error&) {
        return 0;
    }
    return 0;
}
