// Packing of weights into panels of codes, once per weight; built for any machine.
#include "kernels/cpu/linear_codes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/format.h"
#include "formats/mx.h"

namespace aerogel {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

std::size_t aligned(std::int64_t bytes) {
    return static_cast<std::size_t>(ceil_div(bytes, 64) * 64);
}

/// What nibbles stand for: bytes, times a unit.
struct CodeBook {
    float unit;
    std::array<std::int8_t, 16> values;
};
constexpr CodeBook kIntegers = {1.0F, {0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1}};
constexpr CodeBook kFloats = {0.5F, {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}};

const CodeBook& book_of(Format format) {
    return format == Format::int4 ? kIntegers : kFloats;
}

/// Nothing where this packed form cannot hold the format's elements.
std::optional<Code> code_of(Format format) {
    switch (format) {
        case Format::int8:
            return Code::int8;
        case Format::int4:
        case Format::mxfp4:
        case Format::mxfp4_dual:
            return Code::nibble;
        case Format::fp8_e5m2:
            return Code::half;
        case Format::fp8_e4m3:
        case Format::mxfp8:
            return Code::narrow_half;
        default:
            return std::nullopt;
    }
}

/// Elements to codes.
class Encoder {
  public:
    explicit Encoder(Format format) : code_(code_of(format).value()), unit_(book_of(format).unit) {
        const CodeBook& book = book_of(format);
        for (std::uint8_t i = 16; i-- > 0;) index_[static_cast<std::uint8_t>(book.values[i])] = i;
    }

    std::uint8_t operator()(float element) const {
        switch (code_) {
            case Code::int8:
                return static_cast<std::uint8_t>(static_cast<std::int8_t>(element));
            case Code::nibble:
                return index_[static_cast<std::uint8_t>(static_cast<std::int8_t>(element / unit_))];
            case Code::half:
                return static_cast<std::uint8_t>(to_float16(element).bits >> 8);
            case Code::narrow_half:
                break;
        }
        const unsigned bits = to_float16(element * 0x1p-8F).bits;
        return static_cast<std::uint8_t>((bits >> 8 & 0x80U) | (bits >> 7 & 0x7FU));
    }

  private:
    Code code_;
    float unit_;
    std::array<std::uint8_t, 256> index_ = {};
};

/// What all columns have in common.
struct Packing {
    const CodePanels& layout;
    const QuantizedTensor& weight;
    Encoder encode;
    std::byte* packed;
};

/// One column of a panel.
struct Column {
    std::int64_t panel;
    std::int64_t lane;
    std::int64_t row;  ///< of w
};

/// Adds the code of step `step` of a column to a chunk of zeros.
void put(const CodePanels& layout, std::uint8_t* chunk, std::int64_t lane, std::int64_t step,
         std::uint8_t code) {
    switch (layout.code) {
        case Code::int8:
            chunk[lane * 4 + step] = code;
            return;
        case Code::nibble: {
            std::uint8_t& byte = chunk[lane * 4 + step / 2];
            byte = static_cast<std::uint8_t>(byte | code << (step % 2 * 4));
            return;
        }
        case Code::half:
        case Code::narrow_half:
            chunk[step / 2 * layout.columns * 2 + lane * 2 + step % 2] = code;
            return;
    }
}

std::uint8_t* chunks_of(const Packing& packing, const Column& column, std::int64_t group) {
    const CodePanels& layout = packing.layout;
    return reinterpret_cast<std::uint8_t*>(packing.packed) +
           column.panel * static_cast<std::int64_t>(layout.panel_bytes) +
           group * layout.chunks * layout.columns * 4;
}

/// True where the codes are what the format stores: bytes, or pairs of columns, which no group divides.
bool lies_as_stored(const CodePanels& layout, const QuantizedTensor& weight) {
    if (weight.format == Format::int8) return true;
    return weight.format == Format::int4 && (layout.groups == 1 || layout.width % 2 == 0);
}

/// The codes of one group, four bytes at a time.
void copy_group(const Packing& packing, const Column& column, std::int64_t group) {
    constexpr std::int64_t kChunk = 4;  // bytes of a column
    const CodePanels& layout = packing.layout;
    const QuantizedTensor& weight = packing.weight;
    const std::int64_t per_byte = layout.steps / kChunk, start = group * layout.width;
    const std::int64_t count = std::min(layout.width, weight.columns - start);
    const auto* from = static_cast<const std::uint8_t*>(weight.data.data()) +
                       column.row * ceil_div(weight.columns, per_byte) + start / per_byte;
    std::uint8_t* to = chunks_of(packing, column, group) + column.lane * kChunk;
    std::int64_t left = ceil_div(count, per_byte);
    for (; left > kChunk; left -= kChunk, from += kChunk, to += layout.columns * kChunk)
        std::memcpy(to, from, kChunk);
    std::memcpy(to, from, static_cast<std::size_t>(left));
    if (count % per_byte != 0) to[left - 1] &= 0xF;
}

/// The codes of one group; true when an element is NaN.
bool pack_group(const Packing& packing, const Column& column, std::int64_t group) {
    const CodePanels& layout = packing.layout;
    const QuantizedTensor& weight = packing.weight;
    constexpr std::int64_t kPiece = 256;  // a multiple of the steps of every chunk
    float piece[kPiece];
    bool nan = false;
    const FormatRow& format = format_row(weight.format);
    const std::int64_t start = group * layout.width;
    const std::int64_t count = std::min(layout.width, weight.columns - start);
    std::uint8_t* const chunks = chunks_of(packing, column, group);
    for (std::int64_t first = 0; first < count; first += kPiece) {
        const std::int64_t some = std::min(kPiece, count - first);
        format.elements(weight, {column.row, start + first, some}, piece);
        for (std::int64_t p = 0; p < some; ++p) {
            nan = nan || std::isnan(piece[p]);
            const std::int64_t step = first + p;
            put(layout, chunks + step / layout.steps * layout.columns * 4, column.lane, step % layout.steps,
                packing.encode(piece[p]));
        }
    }
    return nan;
}

void pack_column(const Packing& packing, const Column& column) {
    const CodePanels& layout = packing.layout;
    const QuantizedTensor& weight = packing.weight;
    std::byte* packed = packing.packed;
    const FormatRow& format = format_row(weight.format);
    const bool copied = lies_as_stored(layout, weight);
    const float* const scales = copied ? weight.scale.as<float>() + column.row * layout.groups : nullptr;
    for (std::int64_t group = 0; group < layout.groups; ++group) {
        if (copied) copy_group(packing, column, group);
        const bool nan = !copied && pack_group(packing, column, group);
        const float scale = nan      ? std::numeric_limits<float>::quiet_NaN()
                            : copied ? scales[group]
                                     : format.scale(weight, column.row, group);
        const std::int64_t at = (column.panel * layout.groups + group) * layout.columns + column.lane;
        if (layout.powers) {
            const std::uint32_t exponent = std::bit_cast<std::uint32_t>(scale) >> 23;
            packed[layout.scale + static_cast<std::size_t>(at)] = static_cast<std::byte>(exponent);
        } else {
            reinterpret_cast<float*>(packed + layout.scale)[at] = scale;
        }
        if (layout.offsets) {
            reinterpret_cast<float*>(packed + layout.offset)[at] =
                weight.offset.as<float>()[column.row * layout.groups + group];
        }
    }
    for (std::int64_t block = 0; block < layout.dual_blocks; ++block) {
        const std::int64_t at = (column.panel * layout.dual_blocks + block) * layout.columns + column.lane;
        reinterpret_cast<float*>(packed + layout.dual)[at] =
            weight.dual_scale.as<float>()[column.row * layout.dual_blocks + block];
    }
}

}  // namespace

CodePanels::CodePanels(const LinearProblem& problem, std::int64_t columns_of_panel)
    : code(code_of(problem.weight).value()),
      powers(is_mx(problem.weight)),
      offsets(problem.weight_offset),
      unit(powers && code == Code::nibble ? kFloats.unit : 1.0F),
      columns(columns_of_panel),
      width(problem.group_size == 0 ? problem.k : problem.group_size),
      groups(ceil_div(problem.k, width)),
      steps(code == Code::nibble ? 8 : 4),
      chunks(ceil_div(width, steps)),
      dual_width(problem.dual_block),
      dual_blocks(problem.weight == Format::mxfp4_dual ? ceil_div(problem.k, dual_width) : 0),
      panels(ceil_div(problem.n, columns)) {
    const std::int64_t last = ceil_div(problem.k - (groups - 1) * width, steps);
    const std::int64_t values = panels * groups * columns;
    panel_bytes = static_cast<std::size_t>(((groups - 1) * chunks + last) * columns * 4);
    scale = aligned(static_cast<std::int64_t>(panel_bytes) * panels);
    offset = scale + aligned(values * (powers ? 1 : 4));
    dual = offset + (offsets ? aligned(values * 4) : 0);
    table = dual + aligned(panels * dual_blocks * columns * 4);
    bytes = table + (code == Code::nibble ? 64 : 0);
}

void pack_codes(const LinearProblem& problem, std::int64_t columns, const QuantizedTensor& weight,
                std::byte* packed) noexcept {
    const CodePanels layout(problem, columns);
    const Packing packing = {layout, weight, Encoder(problem.weight), packed};
    const std::size_t panels_end = layout.panel_bytes * static_cast<std::size_t>(layout.panels);
    std::memset(packed + panels_end, 0, layout.bytes - panels_end);
    parallel_for(layout.panels, [&](std::int64_t panel, int) {
        // By each task, as fresh pages take long.
        std::memset(packed + layout.panel_bytes * static_cast<std::size_t>(panel), 0, layout.panel_bytes);
        for (std::int64_t lane = 0; lane < columns && panel * columns + lane < problem.n; ++lane) {
            pack_column(packing, {panel, lane, panel * columns + lane});
        }
    });
    if (layout.code == Code::nibble) {
        std::memcpy(packed + layout.table, book_of(problem.weight).values.data(), 16);
    }
}

std::string takes_codes(const LinearProblem& problem) {
    if (problem.weight == Format::f32 || problem.weight == Format::bf16)
        return "takes quantized weights only";
    if (!code_of(problem.weight))
        return "has no codes for " + std::string(to_string(problem.weight)) + " weights";
    if (is_integer(problem.activation)) return "takes no integer activations";
    return linear_limits(problem);
}

std::string takes_groups(const LinearProblem& problem) {
    constexpr std::int64_t kBlock = 256;  // sums of 256 * 128 * 128 are exact
    if (!is_integer(problem.activation)) return "takes integer activations only";
    if (problem.weight != Format::int8 && problem.weight != Format::int4) return "takes integer weights only";
    if (problem.group_size == 0 || kBlock % problem.group_size != 0)
        return "takes groups that divide 256 only";
    return linear_limits(problem);
}

std::string takes_byte_groups(const LinearProblem& problem) {
    const std::string reason = takes_groups(problem);
    return reason.empty() && problem.group_size % 8 != 0 ? "takes groups of whole eights only" : reason;
}

std::string takes_nibble_groups(const LinearProblem& problem) {
    if (problem.weight != Format::int4) return "takes int4 weights only";
    return takes_byte_groups(problem);
}

}  // namespace aerogel
