// libpng's own writer, for texts beside the pixels, and its png_image interface to read.
#include "model/video/png_file.h"

#include <png.h>

#include <csetjmp>
#include <memory>
#include <new>
#include <string>

#include "aerogel/error.h"
#include "core/input_file.h"

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

/// What libpng's callbacks fill.
struct Output {
    std::string bytes;
    std::string error;
};

class Writer {
  public:
    explicit Writer(Output& output)
        : png(png_create_write_struct(PNG_LIBPNG_VER_STRING, &output, fail, [](png_structp, const char*) {})),
          info(png != nullptr ? png_create_info_struct(png) : nullptr) {
        if (info == nullptr) throw std::bad_alloc();
        png_set_write_fn(
            png, &output.bytes,
            [](png_structp writer, png_bytep data, png_size_t size) {
                static_cast<std::string*>(png_get_io_ptr(writer))
                    ->append(reinterpret_cast<const char*>(data), size);
            },
            nullptr);
    }
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;
    ~Writer() { png_destroy_write_struct(&png, &info); }

    mutable png_structp png;
    mutable png_infop info;

  private:
    [[noreturn]] static void fail(png_structp png, const char* message) {
        static_cast<Output*>(png_get_error_ptr(png))->error = message;
        png_longjmp(png, 1);
    }
};

// libpng jumps back here on an error, over frames that own nothing.
bool write(const Writer& writer, const Picture& picture, const std::vector<png_text>& texts) {
    if (setjmp(png_jmpbuf(writer.png)) != 0) return false;
    png_set_IHDR(writer.png, writer.info, static_cast<png_uint_32>(picture.width),
                 static_cast<png_uint_32>(picture.height), 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_text(writer.png, writer.info, texts.data(), static_cast<int>(texts.size()));
    png_write_info(writer.png, writer.info);
    const std::size_t stride = static_cast<std::size_t>(picture.width) * 3;
    for (std::size_t y = 0; y < static_cast<std::size_t>(picture.height); ++y)
        png_write_row(writer.png, picture.pixels.data() + y * stride);
    png_write_end(writer.png, nullptr);
    return true;
}

}  // namespace

std::string png_bytes(const Picture& picture, const PictureTexts& texts) {
    std::vector<png_text> chunks;
    for (const auto& [keyword, text] : texts) {
        png_text& chunk = chunks.emplace_back();
        chunk.compression = PNG_ITXT_COMPRESSION_NONE;
        chunk.key = const_cast<char*>(keyword.c_str());  // libpng only reads them
        chunk.text = const_cast<char*>(text.c_str());
        chunk.itxt_length = text.size();
    }
    Output output;
    const Writer writer(output);
    if (!write(writer, picture, chunks)) throw IoError("[png] cannot write a picture: " + output.error);
    return std::move(output.bytes);
}

Picture read_png(const std::filesystem::path& path) {
    const InputFile checked(path, "png");
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    if (png_image_begin_read_from_file(&image, path.c_str()) == 0) {
        throw IoError("[png] cannot read " + path.string() + ": " + image.message);
    }
    const std::unique_ptr<png_image, void (*)(png_image*)> owner(&image, png_image_free);
    check_plausible(path, image);
    image.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;  // 16 bits a channel are brightness as with 8
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
