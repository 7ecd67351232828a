// Reading WIDTHxHEIGHT.
#include "cli/video_size.h"

#include <fmt/format.h>

#include <cstdio>

#include "aerogel/error.h"

namespace aerogel::cli {

VideoSize parse_video_size(std::string_view op, const std::string& text) {
    VideoSize size;
    char rest = 0;
    if (std::sscanf(text.c_str(), "%dx%d%c", &size.width, &size.height, &rest) != 2 || size.width < 1 ||
        size.height < 1) {
        throw InvalidArgument(fmt::format("[{}] --size must be WIDTHxHEIGHT like 64x64, got '{}'", op, text));
    }
    return size;
}

}  // namespace aerogel::cli
