// Error over size, drawn as SVG: a plain function of the figures.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cli/tune_report.h"

namespace aerogel::cli {
namespace {

constexpr double kWidth = 760, kHeight = 480, kLeft = 70, kRight = 150, kTop = 20, kBottom = 50;

// Sizes in MB on a plain axis, errors on a logarithmic one.
struct Axes {
    double low_mb, high_mb, low_error, high_error;

    double x(double mb) const {
        return kLeft + (kWidth - kLeft - kRight) * (mb - low_mb) / (high_mb - low_mb);
    }
    double y(double error) const {
        const double at =
            std::log(std::clamp(error, low_error, high_error) / low_error) / std::log(high_error / low_error);
        return kHeight - kBottom - (kHeight - kTop - kBottom) * at;
    }
};

Axes axes_of(const TunedModel& tuned) {
    double low = tuned.float_bytes, low_error = std::numeric_limits<double>::max(), high_error = 0.0;
    const auto add = [&](const MeasuredMixture& row) {
        low = std::min(low, row.bytes);
        if (row.error() > 0.0) low_error = std::min(low_error, row.error());
        high_error = std::max(high_error, row.error());
    };
    for (const auto& row : tuned.result.uniform) add(row);
    for (const auto& row : tuned.result.tried) add(row);
    add(tuned.result.best);
    if (!(high_error > 0.0)) low_error = high_error = 1e-6;
    return {low / 1e6 * 0.95, tuned.float_bytes / 1e6 * 1.02, low_error / 2.0, high_error * 2.0};
}

std::string svg_text(const std::string& text) {
    std::string result;
    for (const char c : text) {
        if (c == '<')
            result += "&lt;";
        else if (c == '&')
            result += "&amp;";
        else
            result += c;
    }
    return result;
}

std::string label(double x, double y, const std::string& text, const char* anchor = "start") {
    return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                       svg_text(text));
}

std::string line(double x1, double y1, double x2, double y2) {
    return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>\n",
                       x1, y1, x2, y2);
}

std::string grid(const Axes& axes) {
    std::string text;
    for (int i = 0; i <= 5; ++i) {
        const double mb = axes.low_mb + (axes.high_mb - axes.low_mb) * i / 5;
        text += line(axes.x(mb), kTop, axes.x(mb), kHeight - kBottom);
        text += label(axes.x(mb), kHeight - kBottom + 18, fmt::format("{:.3g}", mb), "middle");
    }
    for (int power = -8; power <= 2; ++power) {
        for (const double digit : {1.0, 2.0, 5.0}) {
            const double error = digit * std::pow(10.0, power);
            if (error < axes.low_error || error > axes.high_error) continue;
            text += line(kLeft, axes.y(error), kWidth - kRight, axes.y(error));
            text += label(kLeft - 6, axes.y(error) + 4, fmt::format("{:.3g}", error), "end");
        }
    }
    text += label(0.5 * (kLeft + kWidth - kRight), kHeight - 10, "weights, MB", "middle");
    return text +
           fmt::format(
               "<text transform=\"translate(16,{:.0f}) rotate(-90)\" text-anchor=\"middle\">error of the "
               "velocity</text>\n",
               kHeight / 2);
}

std::string dot(const Axes& axes, const MeasuredMixture& row, const char* style) {
    return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" {}/>\n", axes.x(row.bytes / 1e6),
                       axes.y(row.error()), style);
}

}  // namespace

std::string to_svg(const TuneReport& report) {
    const TuneResult& result = report.tuned.result;
    const Axes axes = axes_of(report.tuned);
    std::string text = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
        "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{0:.0f}\" "
        "height=\"{1:.0f}\" fill=\"white\"/>\n",
        kWidth, kHeight);
    text += grid(axes) + "<polyline fill=\"none\" stroke=\"#7aa6d8\" points=\"";
    for (const auto& [bytes, error] : result.frontier) {
        if (error >= axes.low_error && error <= axes.high_error)
            text += fmt::format("{:.1f},{:.1f} ", axes.x(bytes / 1e6), axes.y(error));
    }
    text += "\"/>\n";
    for (const auto& row : result.tried) text += dot(axes, row, "r=\"3\" fill=\"#3573b5\"");
    for (const auto& row : result.uniform) {
        text += dot(axes, row, "r=\"4\" fill=\"#c8502d\"");
        text += label(axes.x(row.bytes / 1e6) + 7, axes.y(row.error()) - 4, "all " + row.name);
    }
    text += dot(axes, result.best, "r=\"7\" fill=\"none\" stroke=\"#1d8a3b\" stroke-width=\"2.5\"");
    text += label(axes.x(result.best.bytes / 1e6) + 10, axes.y(result.best.error()) + 14, "chosen");
    return text + "</svg>\n";
}

}  // namespace aerogel::cli
