// Packing of weights into slabs, once per weight, on the host.
#include "kernels/cuda/linear_pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/format.h"
#include "formats/nibbles.h"
#include "kernels/cuda/linear_args.h"

namespace aerogel::cuda {
namespace {

constexpr std::int64_t kRowMultiple = 256;  // columns of y of the widest tile
constexpr std::int64_t kMostStep = 32;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

std::size_t aligned(std::int64_t bytes) {
    return static_cast<std::size_t>(ceil_div(bytes, 256) * 256);
}

std::int64_t row_bytes_of(Products products) {
    switch (products) {
        case Products::int4:
        case Products::bf16_int8:
        case Products::bf16_fp8:
            return 64;
        case Products::bf16_int4:
        case Products::bf16_fp4:
            return 32;
        default:
            return kSlabBytes;
    }
}

/// The columns of a row of w that are one step: 32 integers, or 16 of the rest.
struct Step {
    std::int64_t row;     ///< of w
    std::int64_t number;  ///< in the slabs
    std::int64_t first;   ///< column of w
    std::int64_t count;   ///< the others are padding
};

class SlabPacker {
  public:
    SlabPacker(const SlabWeight& layout, const QuantizedTensor& weight, std::byte* packed)
        : layout_(layout), weight_(weight), packed_(packed) {}

    void pack_row(std::int64_t row) const {
        for (std::int64_t group = 0; group < layout_.groups; ++group) {
            const std::int64_t first = group * layout_.width;
            const std::int64_t end = std::min(first + layout_.width, weight_.columns);
            bool finite = true;
            for (std::int64_t s = 0; s * layout_.step < end - first; ++s) {
                const std::int64_t column = first + s * layout_.step;
                const Step step = {row, group * layout_.group_steps + s, column,
                                   std::min(layout_.step, end - column)};
                finite = pack_step(step) && finite;
            }
            pack_scale(row, group, finite);
        }
    }

  private:
    void pack_scale(std::int64_t row, std::int64_t group, bool finite) const {
        if (layout_.products == Products::bf16) return;
        const auto at = group * layout_.rows + row;
        float scale = format_row(weight_.format).scale(weight_, row, group);
        if (weight_.format == Format::mxfp4_dual) {
            const std::int64_t blocks = ceil_div(weight_.columns, weight_.dual_block);
            scale *=
                weight_.dual_scale.as<float>()[row * blocks + group * layout_.width / weight_.dual_block];
        }
        reinterpret_cast<float*>(packed_ + layout_.scale)[at] =
            finite ? scale : std::numeric_limits<float>::quiet_NaN();
        if (weight_.offset.defined())
            reinterpret_cast<float*>(packed_ + layout_.offset)[group * layout_.rows + neighbour_order(row)] =
                weight_.offset.as<float>()[row * layout_.groups + group];
    }

    /// False when an element is not finite.
    bool pack_step(const Step& step) const {
        switch (layout_.products) {
            case Products::int8:
            case Products::int4:
            case Products::bf16_int8:
            case Products::bf16_int4: {
                std::int8_t q[kMostStep] = {};
                format_row(weight_.format).integers(weight_, {step.row, step.first, step.count}, q);
                put_codes(step, reinterpret_cast<std::uint8_t*>(q));
                return true;
            }
            case Products::bf16:
                put_floats(step);
                return true;
            default:
                return pack_small_floats(step);
        }
    }

    bool pack_small_floats(const Step& step) const {
        std::uint8_t bits[kMostStep] = {};
        bool finite = true;
        if (layout_.products == Products::bf16_fp4) {
            const std::uint8_t* from = nibble_row(weight_, step.row);
            for (std::int64_t i = 0; i < step.count; ++i) bits[i] = nibble_at(from, step.first + i);
        } else {
            const int largest = weight_.format == Format::fp8_e5m2 ? 0x7B : 0x7E;
            const auto* from = static_cast<const std::uint8_t*>(weight_.data.data()) +
                               step.row * weight_.columns + step.first;
            for (std::int64_t i = 0; i < step.count; ++i) {
                const bool number = (from[i] & 0x7F) <= largest;
                bits[i] = number ? from[i] : std::uint8_t{0};
                finite = finite && number;
            }
        }
        put_codes(step, bits);
        return finite;
    }

    /// The rows of the slab that a step belongs to.
    std::byte* slab(const Step& step, std::int64_t part = 0) const {
        return packed_ + static_cast<std::size_t>(part) * layout_.part_bytes +
               step.number / 4 * layout_.rows * layout_.row_bytes;
    }

    /// 16 of the 32 bytes of a step in rows of 128 bytes.
    std::byte* chunk(const Step& step, std::int64_t half, std::int64_t part = 0) const {
        const std::int64_t row = neighbour_order(step.row);
        return slab(step, part) + row * kSlabBytes + ((step.number % 4 * 2 + half) ^ (row % 8)) * 16;
    }

    void put_codes(const Step& step, const std::uint8_t* code) const {
        const std::int64_t row = neighbour_order(step.row), in_slab = step.number % 4;
        std::byte* block = slab(step) + row / 8 * 8 * layout_.row_bytes + row % 8 * 16;
        std::uint8_t bytes[16] = {};
        switch (layout_.products) {
            case Products::int8:
            case Products::fp8:
                std::memcpy(chunk(step, 0), code, 16);
                std::memcpy(chunk(step, 1), code + 16, 16);
                return;
            case Products::int4:
                for (int i = 0; i < 16; ++i)
                    bytes[i] = static_cast<std::uint8_t>((code[i] & 0xF) | code[i + 16] << 4);
                std::memcpy(block + in_slab * 128, bytes, 16);
                return;
            case Products::bf16_int8:
            case Products::bf16_fp8:
                for (int i = 0; i < 16; ++i) bytes[i % 8 / 2 * 4 + i / 8 * 2 + i % 2] = code[i];
                std::memcpy(block + in_slab * 128, bytes, 16);
                return;
            default:
                put_nibbles(block + in_slab / 2 * 128, static_cast<int>(in_slab % 2), code);
        }
    }

    void put_nibbles(std::byte* to, int half, const std::uint8_t* code) const {
        const unsigned zero = layout_.products == Products::bf16_int4 ? 8 : 0;
        std::uint32_t words[4];
        std::memcpy(words, to, 16);
        for (int i = 0; i < 16; ++i) {
            const std::uint32_t nibble = (code[i] + zero) & 0xF;
            words[i % 8 / 2] |= nibble << (4 * (2 * half + i / 8) + 16 * (i % 2));
        }
        std::memcpy(to, words, 16);
    }

    void put_floats(const Step& step) const {
        float rest[kMostStep] = {};
        format_row(weight_.format).elements(weight_, {step.row, step.first, step.count}, rest);
        for (std::int64_t part = 0; part < layout_.parts; ++part) {
            BFloat16 halves[kMostStep];
            for (std::int64_t i = 0; i < layout_.step; ++i) {
                halves[i] = part_of(rest[i]);
                const float value = to_float(halves[i]);
                rest[i] = std::isfinite(value) ? rest[i] - value : 0;
            }
            std::memcpy(chunk(step, 0, part), halves, 16);
            std::memcpy(chunk(step, 1, part), halves + 8, 16);
        }
    }

    /// To nearest; no finite number becomes infinite.
    static BFloat16 part_of(float value) {
        const BFloat16 near = to_bfloat16(value);
        if (std::isfinite(value) && !std::isfinite(to_float(near)))
            return {static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16)};
        return near;
    }

    SlabWeight layout_;
    const QuantizedTensor& weight_;
    std::byte* packed_;
};

void pack(const SlabWeight& layout, const QuantizedTensor& weight, std::byte* packed) {
    std::memset(packed, 0, layout.bytes);
    const SlabPacker packer(layout, weight, packed);
    parallel_for(weight.rows, [&](std::int64_t row, int) { packer.pack_row(row); });
}

}  // namespace

Products products_of(const LinearProblem& problem) {
    const bool integers = is_integer(problem.activation);
    switch (problem.weight) {
        case Format::int8:
            return integers ? Products::int8 : Products::bf16_int8;
        case Format::int4:
            return integers ? Products::int4 : Products::bf16_int4;
        case Format::fp8_e4m3:
        case Format::fp8_e5m2:
        case Format::mxfp8:
            return Products::bf16_fp8;
        case Format::mxfp4:
        case Format::mxfp4_dual:
            return Products::bf16_fp4;
        default:
            return Products::bf16;
    }
}

// Two parts of a float32 leave 2^-18 of it, which is less than what sums of so many products lose.
SlabWeight::SlabWeight(const LinearProblem& problem, Products wanted)
    : products(wanted),
      row_bytes(row_bytes_of(products)),
      rows(ceil_div(problem.n, kRowMultiple) * kRowMultiple),
      step(bytes_of_x() ? 32 : 16),
      width(problem.group_size == 0 ? problem.k : problem.group_size),
      groups(ceil_div(problem.k, width)),
      group_steps(ceil_div(width, step)),
      slabs(ceil_div(groups * group_steps, 4)),
      parts(problem.weight != Format::f32 ? 1
            : problem.k >= 1024           ? 2
                                          : 3),
      part_bytes(static_cast<std::size_t>(slabs * rows * row_bytes)) {
    const std::size_t array = aligned(groups * rows * 4);
    scale = part_bytes * static_cast<std::size_t>(parts);
    offset = scale + (products == Products::bf16 ? 0 : array);
    bytes = offset + (problem.weight_offset ? array : 0);
}

void pack_slabs(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept {
    pack(SlabWeight(problem), weight, packed);
}

void pack_fp8_slabs(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept {
    pack(SlabWeight(problem, Products::fp8), weight, packed);
}

}  // namespace aerogel::cuda
