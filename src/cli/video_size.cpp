// Reading WIDTHxHEIGHT.
#include "cli/video_size.h"

#include <fmt/format.h>

#include <charconv>

#include "aerogel/error.h"
#include "core/text.h"

namespace aerogel::cli {

VideoSize parse_video_size(std::string_view op, const std::string& text) {
    VideoSize size;
    const char* const end = text.data() + text.size();
    const auto width = std::from_chars(text.data(), end, size.width);
    if (width.ec == std::errc{} && width.ptr != end && *width.ptr == 'x') {
        const auto height = std::from_chars(width.ptr + 1, end, size.height);
        if (height.ec == std::errc{} && height.ptr == end && size.width >= 1 && size.height >= 1) return size;
    }
    throw InvalidArgument(
        fmt::format("[{}] --size must be WIDTHxHEIGHT like 64x64, got {}", op, in_quotes(text)));
}

}  // namespace aerogel::cli
