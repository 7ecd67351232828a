// Integer grids.
#include "quant/algorithms/integer_grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "formats/int4.h"
#include "formats/int8.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {

IntegerGrid integer_grid(std::string_view algorithm, Format format) {
    if (format == Format::int8) return {-128.0, 127.0};
    if (format == Format::int4) return {-8.0, 7.0};
    throw Unsupported(fmt::format("[{}] writes int8 and int4, not {}", algorithm, to_string(format)));
}

double integer_code(double w, IntegerScale by, IntegerGrid grid) {
    return std::clamp(std::nearbyint(w / by.scale + by.offset), grid.lowest, grid.largest);
}

double integer_error(std::span<const float> values, IntegerScale by, IntegerGrid grid) {
    double error = 0.0;
    for (const float value : values) {
        const double w = static_cast<double>(value);
        const double difference = w - (integer_code(w, by, grid) - by.offset) * by.scale;
        error += difference * difference;
    }
    return error;
}

IntegerScale minmax_scale_of(std::span<const float> values, IntegerGrid grid, bool offset) {
    double low = 0.0, high = 0.0;
    for (const float value : values) {
        low = std::min(low, static_cast<double>(value));
        high = std::max(high, static_cast<double>(value));
    }
    constexpr double kSmallest = static_cast<double>(kSmallestScale);
    if (!offset) return {std::max(std::max(-low, high) / grid.largest, kSmallest), 0.0};
    const double scale = std::max((high - low) / (grid.largest - grid.lowest), kSmallest);
    return {scale, std::clamp(std::nearbyint(-low / scale) + grid.lowest, grid.lowest, grid.largest)};
}

IntegerScale storable(IntegerScale by, DType dtype) {
    const float scale = round_to(dtype, static_cast<float>(by.scale));
    return {static_cast<double>(std::max(scale, kSmallestScale)), by.offset};
}

QuantizedTensor encode_integer_groups(std::string_view algorithm, const Tensor& weight,
                                      const IntegerOptions& options, const ScaleChoice& how) {
    const IntegerGrid grid = integer_grid(algorithm, options.format);
    const std::int64_t rows = weight.dim(0), columns = weight.dim(1);
    const std::int64_t width = group_width(algorithm, columns, options.group_size);
    const std::int64_t groups = columns / width;
    Tensor scale(DType::f32, {rows, groups});
    Tensor offset = options.offset ? Tensor(DType::f32, {rows, groups}) : Tensor();
    parallel_for(rows * groups, [&](std::int64_t group, int) {
        const std::span<const float> values(weight.as<float>() + group * width,
                                            static_cast<std::size_t>(width));
        const IntegerScale by = storable(how.choose(values, grid, how), how.dtype);
        scale.mutable_as<float>()[group] = static_cast<float>(by.scale);
        if (options.offset) offset.mutable_as<float>()[group] = static_cast<float>(by.offset);
    });
    return options.format == Format::int8 ? encode_int8(weight, scale, offset)
                                          : encode_int4(weight, scale, offset);
}

QuantizedTensor quantize_minmax_integers(std::string_view algorithm, const Tensor& weight,
                                         const IntegerOptions& options, DType dtype) {
    const auto choose = [](std::span<const float> group, IntegerGrid grid, const ScaleChoice& how) {
        return minmax_scale_of(group, grid, how.offset);
    };
    return encode_integer_groups(algorithm, weight, options, {choose, dtype, options.offset, 0.0});
}

}  // namespace aerogel
