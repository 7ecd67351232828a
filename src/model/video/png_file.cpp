// libpng's png_image interface.
#include "model/video/png_file.h"

#include <png.h>

#include "aerogel/error.h"

namespace aerogel {

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
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    if (png_image_begin_read_from_file(&image, path.c_str()) == 0) {
        throw IoError("[png] cannot read " + path.string() + ": " + image.message);
    }
    image.format = PNG_FORMAT_RGB;
    Picture picture{static_cast<std::int64_t>(image.height), static_cast<std::int64_t>(image.width), {}};
    picture.pixels.resize(PNG_IMAGE_SIZE(image));
    const png_color black{0, 0, 0};
    if (png_image_finish_read(&image, &black, picture.pixels.data(), 0, nullptr) == 0) {
        png_image_free(&image);
        throw IoError("[png] cannot read " + path.string() + ": " + image.message);
    }
    return picture;
}

}  // namespace aerogel
