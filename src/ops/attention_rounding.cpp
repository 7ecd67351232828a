// Plain loops over rows of head_dim values; the products that follow cost far more.
#include "ops/attention_rounding.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "aerogel/linear.h"
#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/mx.h"
#include "ops/attention_checks.h"

namespace aerogel {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// Where row i of the first three axes lies.
std::int64_t row_offset(const OrderedView& of, const Shape& strides, std::int64_t row) {
    const Shape& shape = of.view.shape;
    const std::size_t token = of.layout == AttentionLayout::bnsd ? 2 : 1, head = 3 - token;
    std::int64_t at[3] = {row / (shape[1] * shape[2]), row / shape[2] % shape[1], row % shape[2]};
    if (!of.order.empty())
        at[token] = of.order[static_cast<std::size_t>(at[0] * shape[head] + at[head])][at[token]];
    return at[0] * strides[0] + at[1] * strides[1] + at[2] * strides[2];
}

std::int64_t row_count(const Shape& shape) {
    return shape[0] * shape[1] * shape[2];
}

/// The tokens of all maps of a contiguous tensor.
struct Maps {
    Maps(const Tensor& x, AttentionLayout layout) : d(x.dim(3)), bnsd_(layout == AttentionLayout::bnsd) {
        heads_ = x.dim(bnsd_ ? 1 : 2);
        tokens = x.dim(bnsd_ ? 2 : 1);
        count = x.dim(0) * heads_;
        data_ = x.as<float>();
    }

    float* row(std::int64_t map, std::int64_t token) const {
        const std::int64_t batch = map / heads_, head = map % heads_;
        return data_ + (bnsd_ ? map * tokens + token : (batch * tokens + token) * heads_ + head) * d;
    }

    std::int64_t count, tokens, d;

  private:
    float* data_;
    std::int64_t heads_;
    bool bnsd_;
};

/// Calls visit(map, first token, last token) in parallel.
template <typename Visit>
void for_blocks(const Maps& maps, std::int64_t tokens, const Visit& visit) {
    const std::int64_t block = std::clamp<std::int64_t>(tokens, 1, std::max<std::int64_t>(maps.tokens, 1));
    const std::int64_t blocks = (maps.tokens + block - 1) / block;
    parallel_for(maps.count * blocks, [&](std::int64_t task, int) {
        const std::int64_t first = task % blocks * block;
        visit(task / blocks, first, std::min(first + block, maps.tokens));
    });
}

/// Largest |x|; NaN when any is not finite.
float larger_magnitude(float largest, float x) {
    return std::isfinite(x) && !std::isnan(largest) ? std::max(largest, std::fabs(x)) : kNaN;
}

constexpr float kLargestFloat8 = 448.0F, kLargestInt8 = 127.0F;

/// The scale that brings `largest` to the end of the grid; 1 where that is below float32.
float scale_of(float largest, float grid_end) {
    const float scale = largest / grid_end;
    return scale == 0.0F ? 1.0F : scale;
}

/// Rounds every block of `tokens` tokens of a map with a scale of its own.
template <typename Round>
void round_blocks(const Maps& maps, std::int64_t tokens, float grid_end, const Round& round) {
    for_blocks(maps, tokens, [&](std::int64_t map, std::int64_t first, std::int64_t last) {
        float largest = 0.0F;
        for (std::int64_t t = first; t < last; ++t)
            for (std::int64_t c = 0; c < maps.d; ++c)
                largest = larger_magnitude(largest, maps.row(map, t)[c]);
        const float scale = scale_of(largest, grid_end);
        for (std::int64_t t = first; t < last; ++t) {
            float* row = maps.row(map, t);
            for (std::int64_t c = 0; c < maps.d; ++c) row[c] = round(row[c] / scale) * scale;
        }
    });
}

/// The rounding of one MX block whose largest magnitude is known.
struct MxRounding {
    MxRounding(float largest, MxElement of)
        : element(of),
          exponent(std::isnan(largest) ? 0 : mx_exponent(largest, of == MxElement::e4m3 ? 8 : 2)),
          poison(std::isnan(largest)) {}

    float operator()(float x) const {
        if (poison) return kNaN;
        const float scaled = std::ldexp(x, -exponent);
        const float rounded = element == MxElement::e4m3 ? to_float(to_float8_e4m3(scaled, true))
                                                         : to_float(to_float4_e2m1(scaled));
        return std::ldexp(rounded, exponent);
    }

    MxElement element;
    int exponent;
    bool poison;
};

void round_channels(float* row, std::int64_t d, MxElement element) {
    for (std::int64_t first = 0; first < d; first += kMxBlock) {
        const std::int64_t last = std::min(first + kMxBlock, d);
        float largest = 0.0F;
        for (std::int64_t c = first; c < last; ++c) largest = larger_magnitude(largest, row[c]);
        const MxRounding rounding(largest, element);
        for (std::int64_t c = first; c < last; ++c) row[c] = rounding(row[c]);
    }
}

}  // namespace

Tensor float_copy(const OrderedView& from) {
    const TensorView& view = from.view;
    Tensor copy(DType::f32, view.shape);
    const Shape strides = strides_of(view);
    const std::int64_t d = view.dim(3);
    parallel_for(row_count(view.shape), [&](std::int64_t row, int) {
        const std::int64_t at = row_offset(from, strides, row);
        float* to = static_cast<float*>(copy.data()) + row * d;
        for (std::int64_t c = 0; c < d; ++c)
            to[c] = view.dtype == DType::f32 ? static_cast<const float*>(view.data)[at + c]
                                             : to_float(static_cast<const BFloat16*>(view.data)[at + c]);
    });
    return copy;
}

void write_back(const Tensor& from, const OrderedView& to) {
    const TensorView& view = to.view;
    const Shape strides = strides_of(view);
    const std::int64_t d = view.dim(3);
    parallel_for(row_count(view.shape), [&](std::int64_t row, int) {
        const std::int64_t at = row_offset(to, strides, row);
        const float* x = static_cast<const float*>(from.data()) + row * d;
        for (std::int64_t c = 0; c < d; ++c) {
            if (view.dtype == DType::f32) {
                static_cast<float*>(view.data)[at + c] = x[c];
            } else {
                static_cast<BFloat16*>(view.data)[at + c] = to_bfloat16(x[c]);
            }
        }
    });
}

Tensor rotated(const Tensor& x, const TensorView& matrix) {
    const std::int64_t d = x.dim(3);
    const Shape strides = strides_of(matrix);
    Tensor weight(DType::f32, {d, d});  // y = x w^T
    for (std::int64_t n = 0; n < d; ++n) {
        for (std::int64_t k = 0; k < d; ++k) {
            const std::int64_t at = k * strides[0] + n * strides[1];
            weight.as<float>()[n * d + k] = matrix.dtype == DType::f32
                                                ? static_cast<const float*>(matrix.data)[at]
                                                : to_float(static_cast<const BFloat16*>(matrix.data)[at]);
        }
    }
    const Tensor y(DType::f32, {x.count() / d, d});
    FloatLinear(weight, Tensor()).forward(x.reshaped({x.count() / d, d}), y, {});
    return y.reshaped(x.shape());
}

void subtract_means(const Tensor& x, AttentionLayout layout) {
    const Maps maps(x, layout);
    parallel_for(maps.count, [&](std::int64_t map, int) {
        double sums[256] = {};
        for (std::int64_t t = 0; t < maps.tokens; ++t)
            for (std::int64_t c = 0; c < maps.d; ++c) sums[c] += static_cast<double>(maps.row(map, t)[c]);
        float means[256];
        for (std::int64_t c = 0; c < maps.d; ++c)
            means[c] =
                static_cast<float>(sums[c] / static_cast<double>(std::max<std::int64_t>(maps.tokens, 1)));
        for (std::int64_t t = 0; t < maps.tokens; ++t)
            for (std::int64_t c = 0; c < maps.d; ++c) maps.row(map, t)[c] -= means[c];
    });
}

void round_fp8(const Tensor& x, AttentionLayout layout, std::int64_t tokens) {
    round_blocks({x, layout}, tokens, kLargestFloat8,
                 [](float value) { return to_float(to_float8_e4m3(value, true)); });
}

void round_int8(const Tensor& x, AttentionLayout layout, std::int64_t tokens) {
    round_blocks({x, layout}, tokens, kLargestInt8, [](float value) { return std::nearbyint(value); });
}

void round_fp8_channels(const Tensor& x, AttentionLayout layout) {
    const Maps maps(x, layout);
    parallel_for(maps.count, [&](std::int64_t map, int) {
        float scales[256] = {};
        for (std::int64_t t = 0; t < maps.tokens; ++t)
            for (std::int64_t c = 0; c < maps.d; ++c)
                scales[c] = larger_magnitude(scales[c], maps.row(map, t)[c]);
        for (std::int64_t c = 0; c < maps.d; ++c) scales[c] = scale_of(scales[c], kLargestFloat8);
        for (std::int64_t t = 0; t < maps.tokens; ++t) {
            float* row = maps.row(map, t);
            for (std::int64_t c = 0; c < maps.d; ++c)
                row[c] = to_float(to_float8_e4m3(row[c] / scales[c], true)) * scales[c];
        }
    });
}

void round_mx(const Tensor& x, AttentionLayout layout, MxElement element, MxAxis axis) {
    const Maps maps(x, layout);
    for_blocks(maps, kMxBlock, [&](std::int64_t map, std::int64_t first, std::int64_t last) {
        if (axis == MxAxis::channels) {
            for (std::int64_t t = first; t < last; ++t) round_channels(maps.row(map, t), maps.d, element);
            return;
        }
        for (std::int64_t c = 0; c < maps.d; ++c) {
            float largest = 0.0F;
            for (std::int64_t t = first; t < last; ++t)
                largest = larger_magnitude(largest, maps.row(map, t)[c]);
            const MxRounding rounding(largest, element);
            for (std::int64_t t = first; t < last; ++t) maps.row(map, t)[c] = rounding(maps.row(map, t)[c]);
        }
    });
}

}  // namespace aerogel
