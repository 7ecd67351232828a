// The --size option of commands that make videos.
#pragma once

#include <string>
#include <string_view>

namespace aerogel::cli {

struct VideoSize {
    int width = 0;
    int height = 0;
};

/// "64x48" is width x height, as in ffmpeg; InvalidArgument starting with `op` otherwise.
VideoSize parse_video_size(std::string_view op, const std::string& text);

}  // namespace aerogel::cli
