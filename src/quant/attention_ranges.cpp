// Ranges of q, k and v.
#include "quant/attention_ranges.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "quant/algorithms/model_dtype.h"

namespace aerogel {
namespace {

constexpr double kRatio = 0.9999;

std::vector<float> values_of_head(const TensorView& x, std::int64_t head) {
    const std::int64_t heads = x.dim(2), d = x.dim(3), rows = x.dim(0) * x.dim(1);
    std::vector<float> values;
    values.reserve(static_cast<std::size_t>(rows * d));
    const auto* data = static_cast<const float*>(x.data);
    for (std::int64_t row = 0; row < rows; ++row) {
        const float* from = data + (row * heads + head) * d;
        values.insert(values.end(), from, from + d);
    }
    return values;
}

}  // namespace

InputRange shortest_range(std::vector<float> values, double ratio) {
    if (values.empty() || !(ratio > 0.0 && ratio <= 1.0)) {
        throw InvalidArgument(
            fmt::format("[calibrate] the shortest range needs values and a ratio of (0, 1], got "
                        "{} values and {}",
                        values.size(), ratio));
    }
    std::sort(values.begin(), values.end());
    const auto all = static_cast<double>(values.size());
    const std::size_t count = std::max<std::size_t>(static_cast<std::size_t>(ratio * all), 1);
    std::size_t best = 0;
    for (std::size_t first = 1; first + count <= values.size(); ++first) {
        if (values[first + count - 1] - values[first] < values[best + count - 1] - values[best]) best = first;
    }
    return {values[best], values[best + count - 1]};
}

void AttentionRanges::observe(const std::string& attention, const TensorView& q, const TensorView& k,
                              const TensorView& v) {
    auto& ranges = ranges_[attention];
    const std::array<const TensorView*, 3> parts = {&q, &k, &v};
    for (std::size_t part = 0; part < parts.size(); ++part) {
        const TensorView& x = *parts.at(part);
        const bool fits = x.dtype == DType::f32 && x.shape.size() == 4 && x.contiguous() && x.count() != 0;
        if (!fits) {
            throw InvalidArgument(
                fmt::format("[calibrate] attention of {} must have f32 [batch,tokens,heads,head_dim], got {}",
                            attention, x.describe()));
        }
        const auto* data = static_cast<const float*>(x.data);
        if (!std::all_of(data, data + x.count(), [](float value) { return std::isfinite(value); })) {
            throw InvalidArgument(fmt::format("[calibrate] attention of {} is not finite", attention));
        }
        auto& own = ranges.at(part);
        own.resize(static_cast<std::size_t>(x.dim(2)));
        parallel_for(x.dim(2), [&](std::int64_t head, int) {
            const InputRange seen = shortest_range(values_of_head(x, head), part == 2 ? 1.0 : kRatio);
            InputRange& range = own[static_cast<std::size_t>(head)];
            range = {std::min(range.min, seen.min), std::max(range.max, seen.max)};
        });
    }
}

AttentionScales AttentionRanges::scales(const std::string& attention) const {
    const auto found = ranges_.find(attention);
    if (found == ranges_.end()) {
        throw InvalidArgument(fmt::format("[calibrate] attention of {} was not measured", attention));
    }
    std::array<Tensor, 3> scales;
    for (std::size_t part = 0; part < scales.size(); ++part) {
        const PerHead& ranges = found->second.at(part);
        scales.at(part) = Tensor(DType::f32, {static_cast<std::int64_t>(ranges.size())});
        std::transform(ranges.begin(), ranges.end(), scales.at(part).mutable_as<float>(),
                       [](const InputRange& range) {
                           return std::max(std::max(-range.min, range.max) / 127.0F, kSmallestScale);
                       });
    }
    return {scales[0], scales[1], scales[2], {}, {}, {}};
}

}  // namespace aerogel
