// PNG files of 8-bit RGB pixels, by libpng.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace aerogel {

struct Picture {
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::vector<std::uint8_t> pixels;  ///< RGB, row by row
};

/// What a picture tells about itself: keywords of the PNG standard or one's own (1 to 79 bytes of ASCII), and
/// UTF-8 texts.
using PictureTexts = std::vector<std::pair<std::string, std::string>>;

/// The bytes of a PNG file. IoError with libpng's message.
std::string png_bytes(const Picture& picture, const PictureTexts& texts = {});
/// Reads any PNG as 8-bit RGB (alpha dropped onto black); IoError with libpng's message.
Picture read_png(const std::filesystem::path& path);

}  // namespace aerogel
