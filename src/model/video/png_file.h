// PNG files of 8-bit RGB pixels, by libpng's simplified interface.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace aerogel {

struct Picture {
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::vector<std::uint8_t> pixels;  ///< RGB, row by row
};

/// Writes height * width RGB pixels; IoError with libpng's message.
void write_png(const std::filesystem::path& path, const std::uint8_t* pixels, std::int64_t height,
               std::int64_t width);
/// The same as the bytes of a file.
std::string png_bytes(const Picture& picture);
/// Reads any PNG as 8-bit RGB (alpha dropped onto black); IoError with libpng's message.
Picture read_png(const std::filesystem::path& path);

}  // namespace aerogel
