// Finding the EXIF block of a file, and turning pictures.
#include "model/video/orientation.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace aerogel {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kExif = "Exif\0\0"sv, kPng = "\x89PNG\r\n\x1a\n"sv;

// Whole numbers in bytes of either order; those behind the end are 0, which nothing here takes for real.
struct Bytes {
    std::string_view data;
    bool big = true;  ///< the first byte counts most

    std::uint32_t number(std::size_t at, std::size_t count) const {
        if (at > data.size() || data.size() - at < count) return 0;
        std::uint32_t value = 0;
        for (std::size_t i = 0; i < count; ++i)
            value = value << 8U | static_cast<unsigned char>(data[at + (big ? i : count - 1 - i)]);
        return value;
    }
    std::string_view part(std::size_t at, std::size_t count) const {
        return at > data.size() ? std::string_view() : data.substr(at, count);
    }
};

// Of a TIFF header and its first list of tags.
int orientation_of(std::string_view tiff) {
    if (tiff.starts_with(kExif)) tiff.remove_prefix(kExif.size());
    constexpr std::uint32_t kOrientation = 0x112, kShort = 3, kLong = 4;
    if (!tiff.starts_with("MM\0*"sv) && !tiff.starts_with("II*\0"sv)) return 1;
    const Bytes bytes = {tiff, tiff[0] == 'M'};
    const std::size_t list = bytes.number(4, 4), count = bytes.number(list, 2);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t tag = list + 2 + 12 * i;
        if (tag >= tiff.size()) return 1;
        if (bytes.number(tag, 2) != kOrientation) continue;
        const std::uint32_t type = bytes.number(tag + 2, 2);
        const std::uint32_t value = type == kShort  ? bytes.number(tag + 8, 2)
                                    : type == kLong ? bytes.number(tag + 8, 4)
                                                    : 1;
        return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
    return 1;
}

std::string_view exif_of_jpeg(const Bytes& file) {
    constexpr std::uint32_t kApp1 = 0xE1, kScan = 0xDA, kEnd = 0xD9;
    for (std::size_t at = 2; file.number(at, 1) == 0xFF;) {
        const std::uint32_t marker = file.number(at + 1, 1);
        if (marker == 0xFF) {  // filling
            ++at;
            continue;
        }
        if (marker == kScan || marker == kEnd) break;
        const std::size_t length = file.number(at + 2, 2);
        if (length < 2) break;
        const std::string_view segment = file.part(at + 4, length - 2);
        if (marker == kApp1 && segment.starts_with(kExif)) return segment;
        at += 2 + length;
    }
    return {};
}

std::string_view exif_of_png(const Bytes& file) {
    for (std::size_t at = kPng.size(); at < file.data.size();) {
        const std::size_t length = file.number(at, 4);
        if (file.part(at + 4, 4) == "eXIf"sv) return file.part(at + 8, length);
        at += 12 + length;
    }
    return {};
}

std::string_view exif_of_webp(std::string_view data) {
    const Bytes file = {data, false};
    for (std::size_t at = 12; at < data.size();) {
        const std::size_t length = file.number(at + 4, 4);
        if (file.part(at, 4) == "EXIF"sv) return file.part(at + 8, length);
        at += 8 + length + length % 2;
    }
    return {};
}

}  // namespace

int exif_orientation(std::string_view file) {
    if (file.starts_with("\xFF\xD8"sv)) return orientation_of(exif_of_jpeg({file}));
    if (file.starts_with(kPng)) return orientation_of(exif_of_png({file}));
    if (file.starts_with("RIFF"sv) && file.substr(0, 12).ends_with("WEBP"sv))
        return orientation_of(exif_of_webp(file));
    return 1;
}

Picture upright(Picture picture, int orientation) {
    if (orientation < 2 || orientation > 8) return picture;
    // From the fifth on rows and columns change places; then what runs backwards, by the numbers of EXIF.
    const bool turned = orientation >= 5;
    const bool up = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
    const bool left = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
    Picture seen = {turned ? picture.width : picture.height, turned ? picture.height : picture.width, {}};
    seen.pixels.resize(picture.pixels.size());
    std::uint8_t* to = seen.pixels.data();
    for (std::int64_t i = 0; i < seen.height; ++i) {
        for (std::int64_t j = 0; j < seen.width; ++j, to += 3) {
            const std::int64_t row = up ? seen.height - 1 - i : i, column = left ? seen.width - 1 - j : j;
            const std::int64_t from = turned ? column * picture.width + row : row * picture.width + column;
            std::memcpy(to, picture.pixels.data() + 3 * from, 3);
        }
    }
    return seen;
}

}  // namespace aerogel
