// Two passes over 8-bit pixels with weights in 22-bit fixed point and pixels rounded in between: Pillow's
// arithmetic (libImaging/Resample.c), so that results are equal.
#include "model/image/resize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "aerogel/error.h"
#include "base/thread_pool.h"

namespace aerogel {
namespace {

constexpr int kWeightBits = 22;
constexpr std::int64_t kColors = 3;

double bicubic(double x) {
    constexpr double kSharpness = -0.5;  // "a" of Keys, 1981
    x = std::abs(x);
    if (x < 1.0) return ((kSharpness + 2.0) * x - (kSharpness + 3.0)) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * kSharpness;
    return 0.0;
}

double sinc(double x) {
    if (x == 0.0) return 1.0;
    x *= std::numbers::pi;
    return std::sin(x) / x;
}

double lanczos(double x) {
    return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
}

// As Pillow rounds the ends of a filter.
std::int64_t toward_zero(double x) {
    return static_cast<std::int64_t>(x);
}

// Of one place: the sources first .. first + weights.size() - 1.
struct Taps {
    std::int64_t first = 0;
    std::vector<std::int32_t> weights;
};

std::vector<Taps> taps(std::int64_t from, std::int64_t to, ResizeFilter filter) {
    const bool cubic = filter == ResizeFilter::bicubic;
    const double scale = static_cast<double>(from) / static_cast<double>(to), wide = std::max(scale, 1.0);
    const double support = (cubic ? 2.0 : 3.0) * wide;
    std::vector<Taps> all;
    std::vector<double> weights;
    for (std::int64_t place = 0; place < to; ++place) {
        const double center = (static_cast<double>(place) + 0.5) * scale;
        const auto first = std::max<std::int64_t>(toward_zero(center - support + 0.5), 0);
        const auto end = std::min<std::int64_t>(toward_zero(center + support + 0.5), from);
        weights.clear();
        double sum = 0.0;
        for (std::int64_t x = first; x < end; ++x) {
            const double distance = (static_cast<double>(x) - center + 0.5) * (1.0 / wide);
            weights.push_back(cubic ? bicubic(distance) : lanczos(distance));
            sum += weights.back();
        }
        Taps one{first, {}};
        for (double weight : weights) {
            if (sum != 0.0) weight /= sum;
            const double fixed = weight * static_cast<double>(1 << kWeightBits);
            one.weights.push_back(static_cast<std::int32_t>(fixed < 0.0 ? fixed - 0.5 : fixed + 0.5));
        }
        all.push_back(std::move(one));
    }
    return all;
}

// Sums over pixels that lie `step` bytes apart.
std::uint8_t weighted(const std::uint8_t* from, std::int64_t step, const Taps& taps) {
    std::int32_t sum = 1 << (kWeightBits - 1);
    for (const std::int32_t weight : taps.weights) {
        sum += weight * *from;
        from += step;
    }
    return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

Picture resized_rows(const Picture& picture, std::int64_t width, ResizeFilter filter) {
    const std::vector<Taps> columns = taps(picture.width, width, filter);
    Picture result{picture.height, width, {}};
    result.pixels.resize(static_cast<std::size_t>(picture.height * width * kColors));
    parallel_for(picture.height, [&](std::int64_t y, int) {
        const std::uint8_t* from = picture.pixels.data() + y * picture.width * kColors;
        std::uint8_t* to = result.pixels.data() + y * width * kColors;
        for (const Taps& column : columns) {
            for (std::int64_t color = 0; color < kColors; ++color)
                *to++ = weighted(from + column.first * kColors + color, kColors, column);
        }
    });
    return result;
}

Picture resized_columns(const Picture& picture, std::int64_t height, ResizeFilter filter) {
    const std::vector<Taps> rows = taps(picture.height, height, filter);
    const std::int64_t stride = picture.width * kColors;
    Picture result{height, picture.width, {}};
    result.pixels.resize(static_cast<std::size_t>(height * stride));
    parallel_for(height, [&](std::int64_t y, int) {
        const Taps& row = rows[static_cast<std::size_t>(y)];
        const std::uint8_t* from = picture.pixels.data() + row.first * stride;
        for (std::int64_t i = 0; i < stride; ++i)
            result.pixels[static_cast<std::size_t>(y * stride + i)] = weighted(from + i, stride, row);
    });
    return result;
}

}  // namespace

Picture resized(const Picture& picture, std::int64_t height, std::int64_t width, ResizeFilter filter) {
    if (height < 1 || width < 1 || picture.height < 1 || picture.width < 1) {
        throw InvalidArgument(fmt::format("[image] sizes must be positive, got {} x {} pixels for {} x {}",
                                          picture.width, picture.height, width, height));
    }
    Picture result = picture;
    // The order shows in the rounding. Pillow 13 begins with the height where it shrinks by far more rows.
    const std::int64_t fewer_rows = picture.height - height, fewer_columns = picture.width - width;
    const bool height_first = fewer_rows > 0 && fewer_rows > 2 * fewer_columns;
    run_operation([&] {
        if (height_first) result = resized_columns(result, height, filter);
        if (width != result.width) result = resized_rows(result, width, filter);
        if (height != result.height) result = resized_columns(result, height, filter);
    });
    return result;
}

Picture cropped_to_middle(const Picture& picture, std::int64_t height, std::int64_t width) {
    if (height < 1 || width < 1 || picture.height < height || picture.width < width) {
        throw InvalidArgument(fmt::format("[image] the part must lie in the picture of {} x {}, got {} x {}",
                                          picture.width, picture.height, width, height));
    }
    const std::int64_t top = (picture.height - height) / 2, left = (picture.width - width) / 2;
    Picture result{height, width, {}};
    for (std::int64_t y = 0; y < height; ++y) {
        const auto from = picture.pixels.begin() + ((top + y) * picture.width + left) * kColors;
        result.pixels.insert(result.pixels.end(), from, from + width * kColors);
    }
    return result;
}

}  // namespace aerogel
