// Codes of packed weights (linear_codes.h) to vectors of floats, the same way at every CPU level. What a
// weight becomes is (element - offset) * scale or (element * scale) * dual, rounded after each operation: bit
// for bit what formats/dequantize.cpp gives. `Isa` has V and its operations (vector.h) and, with I a register
// of as many 32-bit lanes,
//   load_codes(at)              a whole register
//   load_table(at)              16 bytes for look_up()
//   low_nibbles(x), high_nibbles(x)   of every byte
//   look_up(table, x)           byte table[x] for every byte x < 16
//   flip_signs(x)               every byte, signed, plus 128
//   byte_as_float<i>(x)         signed byte i of every lane, x with flipped signs
//   half<drop, odd>(x)          float16 bits of the lower or upper byte of every 16 bits, `drop` of the
//                               exponent's leading bits absent
//   half_as_float<part>(x)      half of the register's float16s
//   powers(at)                  2^(byte - 127) of kLanes bytes, NaN for 255
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear_codes.h"
#include "kernels/cpu/linear_driver.h"

namespace aerogel {
namespace {

/// One panel of packed codes.
struct CodePanel {
    const std::byte* chunk(std::int64_t group, std::int64_t i) const {
        return packed + static_cast<std::int64_t>(layout.panel_bytes) * panel +
               (group * layout.chunks + i) * layout.columns * 4;
    }

    const CodePanels& layout;
    const std::byte* packed;
    std::int64_t panel;
    bool scaled = true;  ///< false: the weights are the elements themselves
};

/// What the elements of one group are shifted and multiplied by; both halves of a panel.
template <typename Isa>
struct Factors {
    using V = typename Isa::V;

    Factors(const CodePanel& p, std::int64_t group) {
        const CodePanels& layout = p.layout;
        const std::int64_t at = (p.panel * layout.groups + group) * layout.columns;
        const std::int64_t block = group * layout.width / layout.dual_width;
        for (int h = 0; h < 2; ++h) {
            const std::int64_t lane = at + h * Isa::kLanes;
            scale[h] = layout.powers
                           ? Isa::mul(Isa::powers(p.packed + layout.scale + lane), Isa::set1(layout.unit))
                           : Isa::load(floats(p, layout.scale) + lane);
            extra[h] = Isa::zero();
            if (!p.scaled) scale[h] = Isa::set1(1.0F);
            if (layout.offsets) extra[h] = Isa::load(floats(p, layout.offset) + lane);
            if (layout.dual_blocks == 0) continue;
            extra[h] = Isa::load(floats(p, layout.dual) +
                                 (p.panel * layout.dual_blocks + block) * layout.columns + h * Isa::kLanes);
        }
    }
    static const float* floats(const CodePanel& p, std::size_t at) {
        return reinterpret_cast<const float*>(p.packed + at);
    }

    V scale[2];
    V extra[2];  ///< offsets, or dual scales
};

/// A chunk of signed bytes; kOffsets: their elements have offsets.
template <typename Isa, bool kOffsets>
struct Bytes {
    static constexpr int kSteps = 4;
    explicit Bytes(const CodePanel&) {}

    void load(const std::byte* at) {
        for (int h = 0; h < 2; ++h) codes[h] = Isa::flip_signs(Isa::load_codes(at + h * Isa::kLanes * 4));
    }
    template <int kStep>
    typename Isa::V weight(int h, const Factors<Isa>& f) const {
        auto element = Isa::template byte_as_float<kStep>(codes[h]);
        if constexpr (kOffsets) element = Isa::sub(element, f.extra[h]);
        return Isa::mul(element, f.scale[h]);
    }

    typename Isa::I codes[2];
};

/// What the second factor of nibbles is.
enum class Extra { none, offset, dual };

/// A chunk of nibbles; every other one has become a byte of `even`, the rest of `odd`, with flipped signs.
template <typename Isa, Extra kExtra>
struct Nibbles {
    static constexpr int kSteps = 8;
    explicit Nibbles(const CodePanel& p)
        : table(Isa::flip_signs(Isa::load_table(p.packed + p.layout.table))) {}

    void load(const std::byte* at) {
        for (int h = 0; h < 2; ++h) {
            const typename Isa::I codes = Isa::load_codes(at + h * Isa::kLanes * 4);
            even[h] = Isa::look_up(table, Isa::low_nibbles(codes));
            odd[h] = Isa::look_up(table, Isa::high_nibbles(codes));
        }
    }
    template <int kStep>
    typename Isa::V weight(int h, const Factors<Isa>& f) const {
        auto element = Isa::template byte_as_float<kStep / 2>(kStep % 2 == 0 ? even[h] : odd[h]);
        if constexpr (kExtra == Extra::offset) element = Isa::sub(element, f.extra[h]);
        element = Isa::mul(element, f.scale[h]);
        return kExtra == Extra::dual ? Isa::mul(element, f.extra[h]) : element;
    }

    typename Isa::I table;
    typename Isa::I even[2];
    typename Isa::I odd[2];
};

/// A chunk of float16s without their low bytes; kDrop = 1: and without one bit of exponent.
template <typename Isa, int kDrop>
struct Halves {
    static constexpr int kSteps = 4;
    explicit Halves(const CodePanel&) {}

    void load(const std::byte* at) {
        for (int i = 0; i < 2; ++i) codes[i] = Isa::load_codes(at + i * Isa::kLanes * 4);
    }
    template <int kStep>
    typename Isa::V weight(int h, const Factors<Isa>& f) const {
        const auto half = Isa::template half<kDrop, kStep % 2 == 1>(codes[kStep / 2]);
        auto element = h == 0 ? Isa::template half_as_float<0>(half) : Isa::template half_as_float<1>(half);
        if constexpr (kDrop == 1) element = Isa::mul(element, Isa::set1(256.0F));
        return Isa::mul(element, f.scale[h]);
    }

    typename Isa::I codes[2];
};

template <typename Isa, typename Chunk, int kStep>
void store_steps(const Chunk& chunk, const Factors<Isa>& factors, float* to) {
    if constexpr (kStep < Chunk::kSteps) {
        for (int h = 0; h < 2; ++h) {
            Isa::store(to + (kStep * 2 + h) * Isa::kLanes, chunk.template weight<kStep>(h, factors));
        }
        store_steps<Isa, Chunk, kStep + 1>(chunk, factors, to);
    }
}

/// Weights of steps [range.first, range.first + range.count) of a panel to out[steps][columns]. Writes up to
/// kSteps - 1 rows before and after as well.
template <typename Isa, typename Chunk>
void unpack_panel(const CodePanel& p, Range range, float* out) {
    constexpr std::int64_t kColumns = 2 * Isa::kLanes;
    const std::int64_t width = p.layout.width;
    const std::int64_t end = range.first + range.count;
    Chunk chunk(p);
    for (std::int64_t step = range.first; step < end;) {
        const std::int64_t group = step / width, start = group * width;
        const std::int64_t stop = start + width < end ? start + width : end;
        const Factors<Isa> factors(p, group);
        std::int64_t i = (step - start) / Chunk::kSteps;
        const std::byte* at = p.chunk(group, i);
        float* to = out + (start + i * Chunk::kSteps - range.first) * kColumns;
        for (; start + i * Chunk::kSteps < stop; ++i, at += kColumns * 4, to += Chunk::kSteps * kColumns) {
            chunk.load(at);
            store_steps<Isa, Chunk, 0>(chunk, factors, to);
        }
        step = stop;
    }
}

/// Rows of x side by side, `columns` of each.
struct FewRows {
    const float* at;
    std::int64_t stride;
    std::int64_t columns;
};

/// Sums of a few rows of x over a panel, the weights never leaving the registers. Several sums per value of
/// y, so that one step need not wait for the one before.
template <typename Isa, typename Chunk, int kRows>
struct PanelSums {
    using V = typename Isa::V;
    static constexpr int kSets = kRows <= 2 ? 2 : 1;

    template <int kStep>
    [[gnu::always_inline]] void add(const Chunk& chunk, const Factors<Isa>& factors, const FewRows& x) {
        const V w[2] = {chunk.template weight<kStep>(0, factors), chunk.template weight<kStep>(1, factors)};
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            const V broadcast = Isa::set1(x.at[r * x.stride + kStep]);
            V* sum = sums[kStep % kSets][r];
            sum[0] = Isa::fma(broadcast, w[0], sum[0]);
            sum[1] = Isa::fma(broadcast, w[1], sum[1]);
        }
    }

    /// The first `count` steps of a chunk.
    template <int kStep = 0>
    [[gnu::always_inline]] void add_steps(const Chunk& chunk, const Factors<Isa>& factors, const FewRows& x,
                                          std::int64_t count) {
        if constexpr (kStep < Chunk::kSteps) {
            if (kStep >= count) return;
            add<kStep>(chunk, factors, x);
            add_steps<kStep + 1>(chunk, factors, x, count);
        }
    }

    [[gnu::always_inline]] void store(float* out) const {
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            for (int h = 0; h < 2; ++h) {
                V total = sums[0][r][h];
                for (int set = 1; set < kSets; ++set) total = Isa::add(total, sums[set][r][h]);
                Isa::store(out + (r * 2 + h) * Isa::kLanes, total);
            }
        }
    }

    V sums[kSets][kRows][2] = {};
};

/// out[kRows][columns of the panel] = x w^T.
template <typename Isa, typename Chunk, int kRows>
[[gnu::noinline]] void multiply_panel(const CodePanel& p, FewRows x, float* out) {
    constexpr std::int64_t kChunkBytes = Isa::kLanes * 8;
    constexpr std::int64_t kAhead = 1024;  // bytes; memory answers about that much later
    PanelSums<Isa, Chunk, kRows> sums;
    Chunk chunk(p);
    for (std::int64_t group = 0, left = x.columns; left > 0; ++group) {
        std::int64_t count = left < p.layout.width ? left : p.layout.width;
        left -= count;
        const Factors<Isa> factors(p, group);
        const std::byte* at = p.chunk(group, 0);
        for (; count >= Chunk::kSteps; count -= Chunk::kSteps, at += kChunkBytes, x.at += Chunk::kSteps) {
            __builtin_prefetch(at + kAhead);
            chunk.load(at);
            sums.add_steps(chunk, factors, x, Chunk::kSteps);
        }
        if (count == 0) continue;
        chunk.load(at);
        sums.add_steps(chunk, factors, x, count);
        x.at += count;
    }
    sums.store(out);
}

}  // namespace
}  // namespace aerogel
