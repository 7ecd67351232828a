// Integer schemes with weight scales per group of columns, multiplied as bytes: x_q + 128 times the weights,
// four columns per step, summed exactly in int32 group by group; then scales and sums follow in the order
// that kernels/linear.h spells out, and y is the reference's to the bit. Weights of four bits become bytes a
// block at a time; the even columns of eight come first then, and x lies in that order too. Weights of eight
// bits are multiplied where they lie. Included by sources built for one CPU level, so everything is local to
// the including file.
#pragma once

#include "aerogel/threads.h"
#include "kernels/cpu/byte_order.h"
#include "kernels/cpu/linear_codes.h"
#include "kernels/cpu/linear_unpack.h"
#include "kernels/cpu/linear_w8a8.h"

namespace aerogel {
namespace {

/// One call. `Isa` has the vectors and codes of linear_unpack.h, finish_floats() of linear_float.h and
///   kRows, kColumns                              the register block, two vectors of columns
///   multiply_integers(rows, block)               its register kernel
///   quantize_row(problem, args, rows, i, order)  as that of linear_w8a8.h, x_q + 128 in the order of the
///   columns add_bytes(sum, w)                            adds the four signed bytes of every lane
///   bias_of(sum)                                 what 128 instead of 0 makes of it: -128 * sum
///   to_float(integers)
struct ByteGroupCall {
    const LinearProblem& problem;
    const LinearArgs& args;
    const CodePanels& layout;
    const QuantizedRows& x;
};

/// What run_task() needs.
template <typename Isa, bool kNibbles>
struct ByteGroupKernel {
    using I = typename Isa::I;
    static constexpr std::int64_t kRows = Isa::kRows;
    static constexpr std::int64_t kColumns = Isa::kColumns;
    static constexpr std::int64_t kSteps = kBlockSteps / 2;
    static constexpr std::int64_t kMostGroups = kSteps / 2;
    // NOLINTNEXTLINE(readability-identifier-naming): the float kernel has it as a member
    static constexpr std::int64_t step_bytes = kColumns * (kNibbles ? 2 : 4);

    /// Scratch of a worker besides its sums.
    static constexpr std::int64_t kWeightBytes = kNibbles ? kSteps * kColumns * 4 : 0;
    static constexpr std::int64_t kScratchBytes = kWeightBytes + kMostGroups * kColumns * 4;

    const std::int32_t* x_block(Range rows, std::int64_t first, std::int64_t) const {
        return call.x.row(call.args.workspace, rows.first, first / kBlockSteps) + first % kBlockSteps;
    }

    const std::byte* w_source(std::int64_t panel, std::int64_t first) const {
        return call.args.packed + static_cast<std::size_t>(panel) * call.layout.panel_bytes +
               first * step_bytes;
    }

    std::int64_t group_steps() const { return call.layout.width / 4; }
    std::int32_t* biases() const { return reinterpret_cast<std::int32_t*>(scratch + kWeightBytes); }

    /// The weights of a block as bytes, and the bias of each of its groups.
    const void* w_block(std::int64_t panel, std::int64_t first, std::int64_t count) {
        const std::int64_t group = panel * call.layout.groups + first / group_steps();
        scale = reinterpret_cast<const float*>(call.args.packed + call.layout.scale) + group * kColumns;
        const std::byte* source = w_source(panel, first);
        const I table = kNibbles ? Isa::load_table(call.args.packed + call.layout.table) : I{};
        std::int32_t* bias = biases();
        for (std::int64_t step = 0; step < count; step += group_steps(), bias += kColumns) {
            for (int h = 0; h < 2; ++h) {
                const std::byte* from = source + step * step_bytes + h * Isa::kLanes * 4;
                I sum = Isa::zero_integers();
                if constexpr (kNibbles) {
                    auto* to = reinterpret_cast<std::int32_t*>(scratch) + step * kColumns + h * Isa::kLanes;
                    for (std::int64_t i = 0; i < group_steps(); i += 2, from += 2 * step_bytes) {
                        const I codes = Isa::load_codes(from);
                        const I even = Isa::look_up(table, Isa::low_nibbles(codes));
                        const I odd = Isa::look_up(table, Isa::high_nibbles(codes));
                        sum = Isa::add_bytes(Isa::add_bytes(sum, even), odd);
                        Isa::store_integers(to + i * kColumns, even);
                        Isa::store_integers(to + (i + 1) * kColumns, odd);
                    }
                } else {
                    for (std::int64_t i = 0; i < group_steps(); ++i, from += step_bytes)
                        sum = Isa::add_bytes(sum, Isa::load_codes(from));
                }
                Isa::store_integers(bias + h * Isa::kLanes, Isa::bias_of(sum));
            }
        }
        return kNibbles ? scratch : source;
    }

    void multiply(std::int64_t rows, const Block& block) const {
        alignas(64) std::int32_t part[kRows * kColumns];
        const std::int64_t width = group_steps();
        auto* total = static_cast<float*>(block.sums);
        Block group = block;
        group.sums = part;
        group.steps = width;
        group.first = true;
        for (std::int64_t step = 0; step < block.steps; step += width) {
            Isa::multiply_integers(rows, group);
            const float* scales = scale + step / width * kColumns;
            const std::int32_t* bias = biases() + step / width * kColumns;
            for (std::int64_t at = 0; at < rows * kColumns; at += Isa::kLanes) {
                const I sum = Isa::add_integers(Isa::load_integers(part + at),
                                                Isa::load_integers(bias + at % kColumns));
                const auto scaled = Isa::mul(Isa::to_float(sum), Isa::load(scales + at % kColumns));
                const auto before = block.first && step == 0 ? Isa::zero() : Isa::load(total + at);
                Isa::store(total + at, Isa::add(before, scaled));
            }
            group.x += width;
            group.w = static_cast<const std::byte*>(group.w) + width * kColumns * 4;
            group.ahead.from += ceil_div(width, Prefetch::kSteps) * group.ahead.lines * 64;
        }
    }

    void finish(const Place& place, std::byte* in) const {
        auto* y = reinterpret_cast<float*>(in);
        const float* s_t = call.x.scale(call.args.workspace) + place.row;
        for (std::int64_t at = 0; at < place.rows * kColumns; at += Isa::kLanes)
            Isa::store(y + at, Isa::mul(Isa::load(y + at), Isa::set1(s_t[at / kColumns])));
        Isa::finish_floats(call.problem, call.args, place, y);
    }

    const ByteGroupCall& call;
    std::byte* scratch;
    std::byte* sums;
    const float* scale = nullptr;  ///< of the block at hand
};

/// The functions of a LinearKernel row.
template <typename Isa>
struct ByteGroupRow {
    static std::size_t packed_bytes(const LinearProblem& problem) {
        return CodePanels(problem, Isa::kColumns).bytes;
    }

    static void pack(const LinearProblem& problem, const QuantizedTensor& weight,
                     std::byte* packed) noexcept {
        pack_codes(problem, Isa::kColumns, weight, packed);
    }

    static std::size_t scratch_bytes(const LinearProblem& problem) {
        return aligned_bytes(problem.weight == Format::int4 ? ByteGroupKernel<Isa, true>::kScratchBytes
                                                            : ByteGroupKernel<Isa, false>::kScratchBytes);
    }

    static std::size_t workspace_bytes(const LinearProblem& problem) {
        const Tiling tiling(problem.m, problem.n, Isa::kColumns);
        const std::size_t worker =
            scratch_bytes(problem) + sums_bytes(tiling, Isa::kColumns) + rotated_row_bytes(problem);
        return QuantizedRows(problem.m, ceil_div(problem.k, 4)).bytes +
               worker * static_cast<std::size_t>(num_threads());
    }

    template <bool kNibbles>
    static void multiply(const ByteGroupCall& call) {
        const Tiling tiling(call.problem.m, call.problem.n, Isa::kColumns);
        const std::size_t scratch = scratch_bytes(call.problem);
        const std::size_t worker_bytes = scratch + sums_bytes(tiling, Isa::kColumns);
        parallel_for(tiling.tasks(), [&](std::int64_t task, int worker) {
            std::byte* own =
                call.args.workspace + call.x.bytes + worker_bytes * static_cast<std::size_t>(worker);
            ByteGroupKernel<Isa, kNibbles> kernel = {call, own, own + scratch};
            run_task(kernel, tiling.rows_of(task), tiling.panels_of(task), call.problem.k / 4);
        });
    }

    static void run(const LinearProblem& problem, const LinearArgs& args) noexcept {
        const CodePanels layout(problem, Isa::kColumns);
        const QuantizedRows x(problem.m, ceil_div(problem.k, 4));
        const bool nibbles = layout.code == Code::nibble;
        const Tiling tiling(problem.m, problem.n, Isa::kColumns);
        const std::size_t worker_bytes = scratch_bytes(problem) + sums_bytes(tiling, Isa::kColumns);
        std::byte* const scratch =
            args.workspace + x.bytes + worker_bytes * static_cast<std::size_t>(num_threads());
        quantize_or_rotate_rows<Isa>(
            problem, args, scratch, [&](const LinearProblem& of_row, const LinearArgs& row, std::int64_t i) {
                Isa::quantize_row(of_row, row, x, i, nibbles ? ByteOrder::halves : ByteOrder::plain);
            });
        const ByteGroupCall call = {problem, args, layout, x};
        if (nibbles) {
            multiply<true>(call);
        } else {
            multiply<false>(call);
        }
    }
};

}  // namespace
}  // namespace aerogel
