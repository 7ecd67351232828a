// Min-max weights: see the header for the formulas.
#include "quant/algorithms/minmax_weights.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "formats/fp8.h"
#include "formats/mx.h"
#include "formats/mxfp4.h"
#include "formats/mxfp4_dual.h"
#include "formats/mxfp8.h"
#include "formats/nibbles.h"
#include "formats/scaled.h"
#include "quant/algorithms/model_dtype.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {
namespace {

// The codes of an integer format. In bfloat16 |w| / scale can reach 127.5; symmetric int8 then has -128,
// unless it is narrow.
struct IntegerRange {
    IntegerRange(Format format, const WeightOptions& options)
        : bits(format == Format::int8 ? 8 : 4),
          high(static_cast<float>((1 << (bits - 1)) - 1)),
          low(options.symmetric && bits == 8 && options.narrow ? -high : -high - 1) {}

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

// What a value of a weight's type becomes when arithmetic in that type has computed it, for finite values.
struct AsFloat32 {
    float operator()(float x) const { return x; }
};
struct AsBFloat16 {
    float operator()(float x) const {
        const auto bits = std::bit_cast<std::uint32_t>(x);
        return std::bit_cast<float>((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000);
    }
};
struct AsFloat16 {
    float operator()(float x) const { return round_to(DType::f16, x); }
};

// Quotients are far below 2^22, where adding and taking away 1.5 * 2^23 rounds to nearest even; unlike
// nearbyint this becomes vector code on every machine.
template <typename Rounded, bool kOffset>
void encode_codes(std::span<const float> values, float scale, float offset, const IntegerRange& range,
                  std::int8_t* codes) {
    constexpr float kShift = 12582912.0F;
    constexpr Rounded kRounded;
    const float low = range.low, high = range.high;
    const float* in = values.data();
    const auto count = static_cast<std::int64_t>(values.size());
    for (std::int64_t i = 0; i < count; ++i) {
        const float quotient = kRounded(in[i] / scale);
        float q = (kOffset ? kRounded(quotient + offset) : quotient) + kShift - kShift;
        q = q < low ? low : q;
        q = q > high ? high : q;
        codes[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(q));
    }
}

template <typename Rounded>
void encode_codes(std::span<const float> values, const GroupOut& out, const IntegerRange& range) {
    if (out.offset == nullptr)
        return encode_codes<Rounded, false>(values, *out.scale, 0.0F, range, out.codes);
    encode_codes<Rounded, true>(values, *out.scale, *out.offset, range, out.codes);
}

// Arithmetic in a model's type: one rounding per operation. In bfloat16 |w| / scale can reach 127.5, hence
// the clamp.
class IntegerEncoder {
  public:
    IntegerEncoder(const IntegerRange& range, DType dtype) : range_(range), dtype_(dtype) {}

    /// False, and nothing is written, where a value is not finite.
    bool encode(std::span<const float> values, const GroupOut& out) const {
        const float largest = largest_magnitude(values.data(), static_cast<std::int64_t>(values.size()));
        if (!std::isfinite(largest)) return false;
        if (out.offset == nullptr) {
            *out.scale = std::max(rounded(largest / range_.high), kSmallestScale);
        } else {
            choose_asymmetric(values, out);
        }
        if (dtype_ == DType::f32) encode_codes<AsFloat32>(values, out, range_);
        if (dtype_ == DType::bf16) encode_codes<AsBFloat16>(values, out, range_);
        if (dtype_ == DType::f16) encode_codes<AsFloat16>(values, out, range_);
        return true;
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

// A row of a weight, a copy, with memory for its codes.
struct WeightRow {
    std::int64_t index;
    std::span<float> values;
    std::int8_t* codes;
};

bool is_finite(const WeightRow& row) {
    return std::isfinite(largest_magnitude(row.values.data(), static_cast<std::int64_t>(row.values.size())));
}

// Calls f(row) for every row, in parallel; refuses a row of which it returns false: that is not finite.
template <typename F>
void for_each_row(const TensorView& weight, F&& f) {
    const auto columns = static_cast<std::size_t>(weight.dim(1));
    std::atomic<std::int64_t> bad_row = -1;
    run_operation([&] {
        const auto workers = static_cast<std::size_t>(num_threads());
        std::vector<float> values(workers * columns);
        std::vector<std::int8_t> codes(workers * columns);
        parallel_for(weight.dim(0), [&](std::int64_t row, int worker) {
            const std::size_t at = static_cast<std::size_t>(worker) * columns;
            widen_row(weight, row, values.data() + at);
            if (!f(WeightRow{row, {values.data() + at, columns}, codes.data() + at})) bad_row = row;
        });
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
    const bool nibbles = format == Format::int4;
    result.data = nibbles ? Tensor(DType::u8, nibble_shape(result.rows, result.columns))
                          : Tensor(DType::i8, weight.shape);
    result.scale = Tensor(DType::f32, {result.rows, groups});
    if (!options.symmetric) result.offset = Tensor(DType::f32, {result.rows, groups});
    auto* const data = static_cast<std::byte*>(result.data.mutable_data());
    auto* const scale = result.scale.mutable_as<float>();
    auto* const offset = options.symmetric ? nullptr : result.offset.mutable_as<float>();
    const IntegerEncoder encoder(IntegerRange(format, options),
                                 options.group_size == 0 ? weight.dtype : DType::f32);
    for_each_row(weight, [&](const WeightRow& row) {
        std::byte* const stored = data + row.index * result.data.dim(1);
        std::int8_t* const codes = nibbles ? row.codes : reinterpret_cast<std::int8_t*>(stored);
        for (std::int64_t group = 0; group < groups; ++group) {
            const std::int64_t at = row.index * groups + group, first = group * width;
            const auto values =
                row.values.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(width));
            const GroupOut out = {codes + first, scale + at, offset == nullptr ? nullptr : offset + at};
            if (!encoder.encode(values, out)) return false;
        }
        if (nibbles) put_nibbles(codes, result.columns, reinterpret_cast<std::uint8_t*>(stored));
        return true;
    });
    return result;
}

QuantizedTensor quantize_mx(const TensorView& weight, Format format) {
    QuantizedTensor encoded = mx_tensor(format, weight.dim(0), weight.dim(1));
    for_each_row(weight, [&](const WeightRow& row) {
        if (!is_finite(row)) return false;
        if (format == Format::mxfp8) {
            encode_mxfp8_row(row.values.data(), row.index, encoded);
        } else if (format == Format::mxfp4) {
            encode_mxfp4_row(row.values.data(), row.index, encoded);
        } else {
            encode_mxfp4_dual_row(row.values.data(), row.index, encoded);
        }
        return true;
    });
    return encoded;
}

}  // namespace

QuantizedTensor quantize_minmax(const TensorView& weight, Format format, const WeightOptions& options) {
    check_matrix(weight);
    check_options(weight, format, options);
    if (format == Format::int8 || format == Format::int4) return quantize_integers(weight, format, options);
    if (is_mx(format)) return quantize_mx(weight, format);
    const Tensor values = float_weight("minmax", weight);
    if (format == Format::fp8_e4m3) return encode_fp8_e4m3(values, options.group_size);
    if (format == Format::fp8_e5m2) return encode_fp8_e5m2(values, options.group_size);
    throw InvalidArgument("[minmax] does not write " + std::string(to_string(format)));
}

}  // namespace aerogel
