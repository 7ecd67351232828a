// Searching ranges in histograms.
#include <algorithm>
#include <cmath>
#include <limits>

#include "aerogel/error.h"
#include "quant/algorithms/histogram.h"

namespace aerogel {
namespace {

void check_filled(const ValueHistogram& histogram) {
    if (histogram.total() == 0) throw InvalidArgument("[histogram] the histogram holds no values");
}

// A range of bins, both ends included.
struct Bins {
    std::int64_t first;
    std::int64_t last;
};

// Integral of x^2 between two distances from the centre of a level.
double cube_third(double begin, double end) {
    return (end * end * end - begin * begin * begin) / 3.0;
}

// Expected squared error of values spread evenly inside each bin, rounded to `levels` levels over `kept`. A
// bin may span several levels: its first and last one are cut, those between are whole.
double expected_error(const ValueHistogram& histogram, Bins kept, int levels) {
    const double bin = histogram.bin_width();
    const double level = bin * static_cast<double>(kept.last - kept.first + 1) / levels;
    const double last = levels - 1;
    double error = 0.0;
    for (std::size_t i = 0; i < histogram.counts().size(); ++i) {
        if (histogram.counts()[i] == 0) continue;
        const double begin = static_cast<double>(static_cast<std::int64_t>(i) - kept.first) * bin;
        const double end = begin + bin;
        const double first_level = std::clamp(std::floor(begin / level), 0.0, last);
        const double last_level = std::clamp(std::floor(end / level), 0.0, last);
        const double moments = cube_third(begin - (first_level + 0.5) * level, level / 2.0) +
                               (last_level - first_level - 1.0) * cube_third(-level / 2.0, level / 2.0) +
                               cube_third(-level / 2.0, end - (last_level + 0.5) * level);
        error += static_cast<double>(histogram.counts()[i]) / bin * moments;
    }
    return error;
}

// P over bins below `kept` with all that lies beyond in the last one, Q the same without it and averaged in
// `levels` levels; infinite where Q is 0 and P is not.
double divergence(const std::vector<double>& counts, std::size_t kept, std::size_t levels) {
    double beyond = 0.0, inside = 0.0;
    for (std::size_t i = 0; i < counts.size(); ++i) (i < kept ? inside : beyond) += counts[i];
    const double total = inside + beyond;
    double sum = 0.0;
    std::size_t i = 0;
    for (std::size_t level = 0; level < levels; ++level) {
        const std::size_t end = (level + 1) * kept / levels;
        double mass = 0.0, filled = 0.0;
        for (std::size_t j = i; j < end; ++j) {
            mass += counts[j];
            filled += counts[j] > 0.0 ? 1.0 : 0.0;
        }
        for (; i < end; ++i) {
            const double p = (counts[i] + (i + 1 == kept ? beyond : 0.0)) / total;
            if (p == 0.0) continue;
            if (counts[i] == 0.0) return std::numeric_limits<double>::infinity();
            sum += p * std::log(p / (mass / filled / inside));
        }
    }
    return sum;
}

}  // namespace

InputRange mse_range(const ValueHistogram& histogram, int levels) {
    check_filled(histogram);
    constexpr double kStep = 1e-5;
    const auto& counts = histogram.counts();
    std::vector<double> below(counts.size());
    double sum = 0.0;
    for (std::size_t i = 0; i < counts.size(); ++i) below[i] = sum += static_cast<double>(counts[i]);
    const auto mass = [&](std::int64_t bin) { return below[static_cast<std::size_t>(bin)]; };
    Bins kept{0, static_cast<std::int64_t>(counts.size()) - 1};
    double smallest = std::numeric_limits<double>::infinity();
    double alpha = 0.0, beta = 1.0;
    while (alpha < beta) {
        Bins next = kept;
        while (next.first < kept.last && mass(next.first) < (alpha + kStep) * sum) ++next.first;
        while (next.last > kept.first && mass(next.last) > (beta - kStep) * sum) --next.last;
        if (next.first - kept.first > kept.last - next.last) {
            next.last = kept.last;
            alpha += kStep;
        } else {
            next.first = kept.first;
            beta -= kStep;
        }
        if (next.first == kept.first && next.last == kept.last) continue;
        const double error = expected_error(histogram, next, levels);
        if (error > smallest) break;
        smallest = error;
        kept = next;
    }
    const double low = histogram.low() + histogram.bin_width() * static_cast<double>(kept.first);
    const double high = histogram.low() + histogram.bin_width() * static_cast<double>(kept.last + 1);
    return {std::max(static_cast<float>(low), histogram.seen().min),
            std::min(static_cast<float>(high), histogram.seen().max)};
}

InputRange kl_range(const ValueHistogram& histogram, int levels) {
    check_filled(histogram);
    const std::size_t bins = histogram.counts().size();
    const auto wanted = static_cast<std::size_t>(levels);
    if (levels < 2 || wanted > bins) {
        throw InvalidArgument("[histogram] levels must be in [2, " + std::to_string(bins) + "], got " +
                              std::to_string(levels));
    }
    const InputRange seen = histogram.seen();
    const double reach = std::max(std::fabs(histogram.low()), std::fabs(histogram.high()));
    const double width = reach / static_cast<double>(bins);
    std::vector<double> magnitudes(bins);
    for (std::size_t i = 0; i < bins; ++i) {
        const double centre = histogram.low() + (static_cast<double>(i) + 0.5) * histogram.bin_width();
        const double position = std::min(std::fabs(centre) / width, static_cast<double>(bins - 1));
        magnitudes[static_cast<std::size_t>(position)] += static_cast<double>(histogram.counts()[i]);
    }
    std::size_t best = bins;
    double smallest = std::numeric_limits<double>::infinity();
    for (std::size_t kept = wanted; kept <= bins; ++kept) {
        const double loss = divergence(magnitudes, kept, wanted);
        if (loss < smallest) {
            smallest = loss;
            best = kept;
        }
    }
    const auto threshold = static_cast<float>(static_cast<double>(best) * width);
    return {std::max(seen.min, -threshold), std::min(seen.max, threshold)};
}

}  // namespace aerogel
