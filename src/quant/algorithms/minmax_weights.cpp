// Min-max weights: see the header for the formulas.
#include "quant/algorithms/minmax_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "formats/fp8.h"
#include "formats/int4.h"
#include "formats/mxfp4.h"
#include "formats/mxfp4_dual.h"
#include "formats/mxfp8.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

// The codes of an integer format. Symmetric int8 leaves -128 out, as the exporter of such files does.
struct IntegerRange {
    IntegerRange(Format format, bool symmetric)
        : bits(format == Format::int8 ? 8 : 4),
          high(static_cast<float>((1 << (bits - 1)) - 1)),
          low(symmetric && bits == 8 ? -high : -high - 1) {}

    int bits;
    float high;
    float low;
};

// Where the codes, the scale and the offset of one group of columns go.
struct GroupOut {
    std::int8_t* codes;
    float* scale;
    float* offset;  // null when symmetric
};

// One row of a float matrix as float32.
void widen_row(const TensorView& weight, std::int64_t row, float* out) {
    const std::int64_t columns = weight.dim(1);
    if (weight.dtype == DType::f32) {
        const auto* in = static_cast<const float*>(weight.data) + row * columns;
        std::copy(in, in + columns, out);
    } else if (weight.dtype == DType::bf16) {
        const auto* in = static_cast<const BFloat16*>(weight.data) + row * columns;
        std::transform(in, in + columns, out, [](BFloat16 x) { return to_float(x); });
    } else {
        const auto* in = static_cast<const Float16*>(weight.data) + row * columns;
        std::transform(in, in + columns, out, [](Float16 x) { return to_float(x); });
    }
}

// Arithmetic in a model's type: one rounding per operation. In bfloat16 |w| / scale can reach 127.5, hence
// the clamp.
class IntegerEncoder {
  public:
    IntegerEncoder(const IntegerRange& range, DType dtype) : range_(range), dtype_(dtype) {}

    void encode(std::span<const float> values, const GroupOut& out) const {
        if (out.offset == nullptr) {
            float largest = 0.0F;
            for (const float value : values) largest = std::max(largest, std::fabs(value));
            *out.scale = std::max(rounded(largest / range_.high), kSmallestScale);
        } else {
            choose_asymmetric(values, out);
        }
        const float offset = out.offset == nullptr ? 0.0F : *out.offset;
        for (std::size_t i = 0; i < values.size(); ++i) {
            const float q = std::nearbyint(rounded(rounded(values[i] / *out.scale) + offset));
            out.codes[i] = static_cast<std::int8_t>(std::clamp(q, range_.low, range_.high));
        }
    }

  private:
    float rounded(float x) const { return round_to(dtype_, x); }

    void choose_asymmetric(std::span<const float> values, const GroupOut& out) const {
        float low = 0.0F, high = 0.0F;
        for (const float value : values) {
            low = std::min(low, value);
            high = std::max(high, value);
        }
        const float levels = range_.high - range_.low;
        const float scale = rounded(rounded(high / levels) - rounded(low / levels));
        *out.scale = std::max(scale, kSmallestScale);
        *out.offset = std::nearbyint(rounded(-low / *out.scale)) + range_.low;
    }

    IntegerRange range_;
    DType dtype_;
};

void check_matrix(const TensorView& weight) {
    if (weight.shape.size() != 2 || !is_model_dtype(weight.dtype) || !weight.contiguous()) {
        throw InvalidArgument("[minmax] the weight must be a contiguous f32, bf16 or f16 matrix, got " +
                              weight.describe());
    }
}

void check_options(const TensorView& weight, Format format, const WeightOptions& options) {
    const bool integer = format == Format::int8 || format == Format::int4;
    const bool grouped = integer || format == Format::fp8_e4m3 || format == Format::fp8_e5m2;
    const std::string name(to_string(format));
    if (!options.symmetric && !integer) throw InvalidArgument("[minmax] " + name + " has no offsets");
    if (options.group_size != 0 && !grouped) {
        throw InvalidArgument("[minmax] " + name + " has blocks of its own, no group size");
    }
    if (options.group_size < 0 || (options.group_size != 0 && weight.dim(1) % options.group_size != 0)) {
        throw InvalidArgument("[minmax] the group size must divide the columns of " + weight.describe() +
                              ", got " + std::to_string(options.group_size));
    }
}

[[noreturn]] void refuse_row(const TensorView& weight, std::int64_t row) {
    throw InvalidArgument("[minmax] the weight " + weight.describe() + " is not finite in row " +
                          std::to_string(row));
}

// Calls f(row, values) for every row as float32, in parallel; refuses a row that is not finite.
template <typename F>
void for_each_row(const TensorView& weight, F&& f) {
    const auto columns = static_cast<std::size_t>(weight.dim(1));
    std::vector<float> scratch(static_cast<std::size_t>(num_threads()) * columns);
    std::atomic<std::int64_t> bad_row = -1;
    parallel_for(weight.dim(0), [&](std::int64_t row, int worker) {
        float* values = scratch.data() + static_cast<std::size_t>(worker) * columns;
        widen_row(weight, row, values);
        if (std::all_of(values, values + columns, [](float x) { return std::isfinite(x); })) {
            f(row, std::span<const float>(values, columns));
        } else {
            bad_row = row;
        }
    });
    if (bad_row >= 0) refuse_row(weight, bad_row);
}

QuantizedTensor quantize_integers(const TensorView& weight, Format format, const WeightOptions& options) {
    QuantizedTensor result;
    result.format = format;
    result.rows = weight.dim(0);
    result.columns = weight.dim(1);
    result.group_size = options.group_size;
    const std::int64_t width = options.group_size == 0 ? result.columns : options.group_size;
    const std::int64_t groups = options.group_size == 0 ? 1 : result.columns / width;
    Tensor codes(DType::i8, weight.shape);
    result.scale = Tensor(DType::f32, {result.rows, groups});
    if (!options.symmetric) result.offset = Tensor(DType::f32, {result.rows, groups});
    const IntegerEncoder encoder(IntegerRange(format, options.symmetric),
                                 options.group_size == 0 ? weight.dtype : DType::f32);
    for_each_row(weight, [&](std::int64_t row, std::span<const float> values) {
        for (std::int64_t group = 0; group < groups; ++group) {
            const std::int64_t at = row * groups + group;
            encoder.encode(
                values.subspan(static_cast<std::size_t>(group * width), static_cast<std::size_t>(width)),
                {codes.as<std::int8_t>() + row * result.columns + group * width,
                 result.scale.as<float>() + at,
                 options.symmetric ? nullptr : result.offset.as<float>() + at});
        }
    });
    result.data = format == Format::int8 ? codes : read_int4(codes, result.rows, result.columns);
    return result;
}

}  // namespace

QuantizedTensor quantize_minmax(const TensorView& weight, Format format, const WeightOptions& options) {
    check_matrix(weight);
    check_options(weight, format, options);
    if (format == Format::int8 || format == Format::int4) return quantize_integers(weight, format, options);
    const Tensor values = float_weight("minmax", weight);
    switch (format) {
        case Format::fp8_e4m3:
            return encode_fp8_e4m3(values, options.group_size);
        case Format::fp8_e5m2:
            return encode_fp8_e5m2(values, options.group_size);
        case Format::mxfp8:
            return encode_mxfp8(values);
        case Format::mxfp4:
            return encode_mxfp4(values);
        case Format::mxfp4_dual:
            return encode_mxfp4_dual(values);
        default:
            throw InvalidArgument("[minmax] does not write " + std::string(to_string(format)));
    }
}

}  // namespace aerogel
