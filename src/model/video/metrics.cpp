// PSNR, SSIM (separable Gaussian window) and vector distances, all in double.
#include "model/video/metrics.h"

#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace aerogel {
namespace {

constexpr std::int64_t kWindow = 11;
constexpr std::int64_t kCentre = kWindow / 2;

std::array<double, kWindow> gaussian_window() {
    std::array<double, kWindow> window{};
    double sum = 0.0;
    for (std::int64_t i = 0; i < kWindow; ++i) {
        const double x = static_cast<double>(i - kCentre) / 1.5;
        window[static_cast<std::size_t>(i)] = std::exp(-0.5 * x * x);
        sum += window[static_cast<std::size_t>(i)];
    }
    for (double& value : window) value /= sum;
    return window;
}

struct Plane {
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::vector<double> values;
};

// Weighted means over every window that lies inside the plane.
Plane blurred(const Plane& plane) {
    static const auto window = gaussian_window();
    Plane rows{plane.height, plane.width - kWindow + 1, {}};
    rows.values.resize(static_cast<std::size_t>(rows.height * rows.width));
    for (std::int64_t y = 0; y < rows.height; ++y) {
        for (std::int64_t x = 0; x < rows.width; ++x) {
            double sum = 0.0;
            for (std::int64_t i = 0; i < kWindow; ++i) {
                sum += window[static_cast<std::size_t>(i)] *
                       plane.values[static_cast<std::size_t>(y * plane.width + x + i)];
            }
            rows.values[static_cast<std::size_t>(y * rows.width + x)] = sum;
        }
    }
    Plane both{plane.height - kWindow + 1, rows.width, {}};
    both.values.resize(static_cast<std::size_t>(both.height * both.width));
    for (std::int64_t y = 0; y < both.height; ++y) {
        for (std::int64_t x = 0; x < both.width; ++x) {
            double sum = 0.0;
            for (std::int64_t i = 0; i < kWindow; ++i) {
                sum += window[static_cast<std::size_t>(i)] *
                       rows.values[static_cast<std::size_t>((y + i) * rows.width + x)];
            }
            both.values[static_cast<std::size_t>(y * both.width + x)] = sum;
        }
    }
    return both;
}

Plane whole_mean(const Plane& plane) {
    double sum = 0.0;
    for (const double value : plane.values) sum += value;
    return {1, 1, {sum / static_cast<double>(plane.values.size())}};
}

Plane product(const Plane& a, const Plane& b) {
    Plane result{a.height, a.width, a.values};
    for (std::size_t i = 0; i < result.values.size(); ++i) result.values[i] *= b.values[i];
    return result;
}

double plane_ssim(const Plane& a, const Plane& b) {
    constexpr double kC1 = (0.01 * 255) * (0.01 * 255);
    constexpr double kC2 = (0.03 * 255) * (0.03 * 255);
    const auto mean = a.height < kWindow || a.width < kWindow ? whole_mean : blurred;
    const Plane ma = mean(a), mb = mean(b), aa = mean(product(a, a)), bb = mean(product(b, b)),
                ab = mean(product(a, b));
    double sum = 0.0;
    for (std::size_t i = 0; i < ma.values.size(); ++i) {
        const double x = ma.values[i], y = mb.values[i];
        const double covariance = ab.values[i] - x * y;
        const double variances = aa.values[i] - x * x + bb.values[i] - y * y;
        sum += (2 * x * y + kC1) * (2 * covariance + kC2) / ((x * x + y * y + kC1) * (variances + kC2));
    }
    return sum / static_cast<double>(ma.values.size());
}

Plane channel_plane(const Frames& frames, std::int64_t frame, std::int64_t channel) {
    Plane plane{frames.height, frames.width, {}};
    const std::int64_t pixels = frames.height * frames.width;
    plane.values.reserve(static_cast<std::size_t>(pixels));
    for (std::int64_t i = 0; i < pixels; ++i) {
        plane.values.push_back(frames.pixels[static_cast<std::size_t>((frame * pixels + i) * 3 + channel)]);
    }
    return plane;
}

}  // namespace

namespace {

// a(i) and b(i) give the elements.
template <typename A, typename B>
Distance distance_of(std::size_t count, const A& a, const B& b) {
    double dot = 0, aa = 0, bb = 0, l1 = 0, a1 = 0, l2 = 0, largest = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const double x = a(i), y = b(i), difference = std::abs(x - y);
        dot += x * y;
        aa += x * x;
        bb += y * y;
        a1 += std::abs(x);
        l1 += difference;
        l2 += difference * difference;
        if (!(difference <= largest)) largest = difference;  // a NaN stays visible
    }
    const auto ratio = [](double part, double whole) {
        if (whole != 0) return part / whole;
        return part == 0 ? 0.0 : std::numeric_limits<double>::infinity();
    };
    const bool both_zero = aa == 0 && bb == 0;
    return {both_zero ? 1.0 : ratio(dot, std::sqrt(aa) * std::sqrt(bb)), ratio(l1, a1),
            ratio(std::sqrt(l2), std::sqrt(aa)), largest};
}

}  // namespace

Distance distance(std::span<const float> a, std::span<const float> b) {
    const auto element = [](std::span<const float> x) { return [x](std::size_t i) { return double{x[i]}; }; };
    return distance_of(a.size(), element(a), element(b));
}

Distance distance(const Frames& a, const Frames& b) {
    const auto element = [](const Frames& x) {
        return [&x](std::size_t i) { return double{static_cast<float>(x.pixels[i]) / 255.0F}; };
    };
    return distance_of(a.pixels.size(), element(a), element(b));
}

double psnr(const Frames& a, const Frames& b) {
    double sum = 0.0;
    for (std::size_t i = 0; i < a.pixels.size(); ++i) {
        const double difference = static_cast<double>(a.pixels[i]) - static_cast<double>(b.pixels[i]);
        sum += difference * difference;
    }
    if (sum == 0) return std::numeric_limits<double>::infinity();
    return 10 * std::log10(255.0 * 255.0 * static_cast<double>(a.pixels.size()) / sum);
}

double ssim(const Frames& a, const Frames& b) {
    double sum = 0.0;
    for (std::int64_t frame = 0; frame < a.count; ++frame) {
        for (std::int64_t channel = 0; channel < 3; ++channel) {
            sum += plane_ssim(channel_plane(a, frame, channel), channel_plane(b, frame, channel));
        }
    }
    return sum / static_cast<double>(3 * a.count);
}

}  // namespace aerogel
