// libpng's png_image interface.
#include "model/video/png_file.h"

#include <png.h>

#include <memory>
#include <string>
#include <system_error>

#include "aerogel/error.h"

namespace aerogel {
namespace {

// A header may claim any size; the pixels behind it cannot be more than deflate makes of the file, one bit
// each at least.
void check_plausible(const std::filesystem::path& path, const png_image& image) {
    constexpr std::uint64_t kMostSide = 16384, kMostExpansion = 1032;
    const std::uint64_t width = image.width, height = image.height;
    const std::uint64_t least = height * (1 + (width + 7) / 8);
    if (width <= kMostSide && height <= kMostSide &&
        least <= kMostExpansion * std::filesystem::file_size(path))
        return;
    throw InvalidArgument("[png] " + path.string() + ": " + std::to_string(width) + " x " +
                          std::to_string(height) + " pixels in " +
                          std::to_string(std::filesystem::file_size(path)) +
                          " bytes are not plausible (at most 16384 a side)");
}

}  // namespace

void write_png(const std::filesystem::path& path, const std::uint8_t* pixels, std::int64_t height,
               std::int64_t width) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = static_cast<png_uint_32>(width);
    image.height = static_cast<png_uint_32>(height);
    image.format = PNG_FORMAT_RGB;
    if (png_image_write_to_file(&image, path.c_str(), 0, pixels, 0, nullptr) == 0) {
        throw IoError("[png] cannot write " + path.string() + ": " + image.message);
    }
}

std::string png_bytes(const Picture& picture) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = static_cast<png_uint_32>(picture.width);
    image.height = static_cast<png_uint_32>(picture.height);
    image.format = PNG_FORMAT_RGB;
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
    std::string bytes(size, '\0');
    if (png_image_write_to_memory(&image, bytes.data(), &size, 0, picture.pixels.data(), 0, nullptr) == 0)
        throw IoError(std::string("[png] cannot write a picture: ") + image.message);
    bytes.resize(size);
    return bytes;
}

Picture read_png(const std::filesystem::path& path) {
    if (std::error_code ignored; !std::filesystem::is_regular_file(path, ignored))
        throw IoError("[png] cannot read " + path.string() + ": it is not a regular file");
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    if (png_image_begin_read_from_file(&image, path.c_str()) == 0) {
        throw IoError("[png] cannot read " + path.string() + ": " + image.message);
    }
    const std::unique_ptr<png_image, void (*)(png_image*)> owner(&image, png_image_free);
    check_plausible(path, image);
    image.format = PNG_FORMAT_RGB;
    Picture picture{static_cast<std::int64_t>(image.height), static_cast<std::int64_t>(image.width), {}};
    picture.pixels.resize(PNG_IMAGE_SIZE(image));
    const png_color black{0, 0, 0};
    if (png_image_finish_read(&image, &black, picture.pixels.data(), 0, nullptr) == 0) {
        throw IoError("[png] cannot read " + path.string() + ": " + image.message);
    }
    return picture;
}

}  // namespace aerogel
