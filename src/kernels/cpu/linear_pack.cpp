// Packing of weights into panels, once per weight; built for any machine.
#include "kernels/cpu/linear_pack.h"

#include <algorithm>
#include <cstring>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/format.h"

namespace aerogel {
namespace {

std::int64_t rounded_up(std::int64_t value, std::int64_t to) {
    return (value + to - 1) / to * to;
}

std::size_t aligned(std::int64_t bytes) {
    return static_cast<std::size_t>(rounded_up(bytes, 64));
}

/// The columns of y that one panel computes.
struct Columns {
    std::int64_t first;
    std::int64_t count;
};

float value_at(const QuantizedTensor& weight, std::int64_t at) {
    return weight.format == Format::bf16 ? to_float(static_cast<const BFloat16*>(weight.data.data())[at])
                                         : static_cast<const float*>(weight.data.data())[at];
}

void pack_floats(const QuantizedTensor& weight, const PanelForm& form, const Columns& columns, float* out) {
    for (std::int64_t j = 0; j < columns.count; ++j) {
        const std::int64_t row = (columns.first + j) * weight.columns;
        for (std::int64_t p = 0; p < weight.columns; ++p)
            out[p * form.columns + j] = value_at(weight, row + p);
    }
}

void pack_halves(const QuantizedTensor& weight, const PanelForm& form, const Columns& columns,
                 BFloat16* out) {
    const auto* from = static_cast<const BFloat16*>(weight.data.data()) + columns.first * weight.columns;
    for (std::int64_t j = 0; j < columns.count; ++j, from += weight.columns) {
        for (std::int64_t p = 0; p < weight.columns; p += form.values)
            std::copy_n(from + p, std::min(form.values, weight.columns - p),
                        out + p * form.columns + j * form.values);
    }
}

// Columns of a row as integers, a piece at a time: f(first, count, integers).
template <typename F>
void for_each_piece(const QuantizedTensor& weight, std::int64_t row, F&& f) {
    constexpr std::int64_t kPiece = 256;  // a multiple of the values per step of every panel
    const FormatRow& format = format_row(weight.format);
    std::int8_t piece[kPiece];
    for (std::int64_t first = 0; first < weight.columns; first += kPiece) {
        const std::int64_t count = std::min(kPiece, weight.columns - first);
        format.integers(weight, {row, first, count}, piece);
        f(first, count, piece);
    }
}

// Steps of the panels are `gap` bytes apart; nearly all of them are whole, and of four values.
void put_steps(const std::int8_t* piece, std::int64_t count, std::int64_t values, std::int64_t gap,
               std::int8_t* to) {
    constexpr std::int64_t kFour = 4;
    std::int64_t p = 0;
    if (values == kFour)
        for (; p + kFour <= count; p += kFour, to += gap) std::memcpy(to, piece + p, kFour);
    for (; p < count; p += values, to += gap)
        std::memcpy(to, piece + p, static_cast<std::size_t>(std::min(values, count - p)));
}

void pack_integers(const QuantizedTensor& weight, const PanelForm& form, const Columns& columns,
                   std::int8_t* out, std::int32_t* sums) {
    for (std::int64_t j = 0; j < columns.count; ++j) {
        std::int32_t sum = 0;
        for_each_piece(weight, columns.first + j,
                       [&](std::int64_t first, std::int64_t count, const std::int8_t* piece) {
                           put_steps(piece, count, form.values, form.columns * form.values,
                                     out + first * form.columns + j * form.values);
                           for (std::int64_t p = 0; p < count; ++p) sum += piece[p];
                       });
        sums[j] = sum;
    }
}

}  // namespace

PackedPanels::PackedPanels(const LinearProblem& problem, const PanelForm& form)
    : panels((problem.n + form.columns - 1) / form.columns),
      steps(rounded_up((problem.k + form.values - 1) / form.values, form.multiple)),
      panel_bytes(static_cast<std::size_t>(steps * form.columns * form.values * form.value_size)) {
    const bool integers = problem.weight == Format::int8 || problem.weight == Format::int4;
    const std::size_t per_column = integers ? aligned(panels * form.columns * 4) : 0;
    scale = aligned(static_cast<std::int64_t>(panel_bytes) * panels);
    sum = scale + per_column;
    bytes = sum + per_column;
}

void pack_panels(const LinearProblem& problem, const PanelForm& form, const QuantizedTensor& weight,
                 std::byte* packed) noexcept {
    const PackedPanels layout(problem, form);
    const std::size_t panels_end = layout.panel_bytes * static_cast<std::size_t>(layout.panels);
    std::memset(packed + panels_end, 0, layout.bytes - panels_end);
    parallel_for(layout.panels, [&](std::int64_t panel, int) {
        const std::int64_t first = panel * form.columns;
        const Columns columns = {first, std::min(form.columns, problem.n - first)};
        std::byte* values = packed + layout.panel_bytes * static_cast<std::size_t>(panel);
        std::memset(values, 0, layout.panel_bytes);  // by each task, as fresh pages take long
        if (form.value_size == 4) return pack_floats(weight, form, columns, reinterpret_cast<float*>(values));
        if (form.value_size == 2)
            return pack_halves(weight, form, columns, reinterpret_cast<BFloat16*>(values));
        pack_integers(weight, form, columns, reinterpret_cast<std::int8_t*>(values),
                      reinterpret_cast<std::int32_t*>(packed + layout.sum) + first);
        std::copy_n(weight.scale.as<float>() + first, columns.count,
                    reinterpret_cast<float*>(packed + layout.scale) + first);
    });
}

std::string takes_float(const LinearProblem& problem) {
    if (problem.weight != Format::f32 && problem.weight != Format::bf16) return "takes float weights only";
    return linear_limits(problem);
}

std::string takes_bf16_weights(const LinearProblem& problem) {
    return problem.weight == Format::bf16 ? linear_limits(problem) : "takes bf16 weights only";
}

std::string takes_w8a8(const LinearProblem& problem) {
    if (problem.weight != Format::int8 && problem.weight != Format::int4) return "takes integer weights only";
    if (!is_integer(problem.activation)) return "takes integer activations only";
    if (problem.group_size != 0) return "takes one weight scale per row only";
    return linear_limits(problem);
}

std::string takes_w4a8(const LinearProblem& problem) {
    if (problem.weight != Format::int4) return "takes int4 weights only";
    return takes_w8a8(problem);
}

}  // namespace aerogel
