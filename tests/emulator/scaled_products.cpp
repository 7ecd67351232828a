// mma.sync with block scales.
#include "emulator/scaled_products.h"

#include <bit>
#include <cmath>
#include <limits>

#include "emulator/block.h"
#include "emulator/dots.h"
#include "emulator/engines.h"
#include "emulator/fragments.h"
#include "emulator/numbers.h"

namespace aerogel::emulator {

namespace {

const ScaledIn& in_of(const Gathered& lanes, int l) {
    return *static_cast<const ScaledIn*>(lanes.in[l]);
}

/// A power of two, or NaN for 255.
double scale_at(std::uint32_t scales, int block) {
    const std::uint32_t bits = scales >> (8 * block) & 0xFF;
    return bits == 255 ? std::numeric_limits<double>::quiet_NaN()
                       : std::ldexp(1.0, static_cast<int>(bits) - 127);
}

/// A tile's number: per of them in a register, shifted in its bits where it has more than it needs.
struct Element {
    int per, shift;
    SmallFloat format;
    float decode_from(std::uint32_t bits) const {
        const int width = 1 + format.exponent_bits + format.mantissa_bits;
        return decode(format, bits >> shift & ((1U << width) - 1));
    }
};

void multiply_blocks(const Gathered& lanes, Element of_a, Element of_b) {
    const int per = of_a.per, depth = 8 * per, width = 32 / per;
    float a[16 * 64] = {}, b[64 * 8] = {};
    for (int l = 0; l < 32; ++l) {
        for (int i = 0; i < per; ++i) {
            for (int r = 0; r < 4; ++r) {
                const Place p = place_in_a(per, l, r, i);
                a[p.row * depth + p.column] = of_a.decode_from(in_of(lanes, l).tiles.a[r] >> (width * i));
            }
            for (int r = 0; r < 2; ++r) {
                const Place p = place_in_b(per, l, r, i);
                b[p.column * 8 + p.row] = of_b.decode_from(in_of(lanes, l).tiles.b[r] >> (width * i));
            }
        }
    }
    double sums[16 * 8] = {};
    for (int block = 0; block < depth / 32; ++block) {
        float part[16 * 32];
        for (int m = 0; m < 16; ++m) {
            for (int k = 0; k < 32; ++k) part[m * 32 + k] = a[m * depth + block * 32 + k];
        }
        double products[16 * 8];
        multiply_exactly(part, b + block * 32 * 8, products, {16, 8, 32});
        for (int m = 0; m < 16; ++m) {
            const double row = scale_at(in_of(lanes, lane_of_scale_a(m)).scale_a, block);
            for (int n = 0; n < 8; ++n) {
                sums[m * 8 + n] +=
                    products[m * 8 + n] * row * scale_at(in_of(lanes, lane_of_scale_b(n)).scale_b, block);
            }
        }
    }
    for (int l = 0; l < 32; ++l) {
        auto* out = static_cast<std::uint32_t*>(lanes.out[l]);
        for (int i = 0; i < 4; ++i) {
            const Place p = place_in_c(l, i);
            const auto c = static_cast<double>(std::bit_cast<float>(in_of(lanes, l).tiles.c[i]));
            out[i] = std::bit_cast<std::uint32_t>(static_cast<float>(c + sums[p.row * 8 + p.column]));
        }
    }
}

}  // namespace

void multiply_scaled(ScaledProduct product, const ScaledIn& in, std::uint32_t* out) {
    const Where where{"gpu_sm120.h", 0};
    require_sm(120, where);
    Operation operation = nullptr;
    switch (product) {
        case ScaledProduct::e4m3:
            operation = [](const Gathered& g) { multiply_blocks(g, {4, 0, kE4M3}, {4, 0, kE4M3}); };
            break;
        case ScaledProduct::e4m3_e2m1:
            operation = [](const Gathered& g) { multiply_blocks(g, {4, 0, kE4M3}, {4, 2, kE2M1}); };
            break;
        case ScaledProduct::e2m1:
            operation = [](const Gathered& g) { multiply_blocks(g, {8, 0, kE2M1}, {8, 0, kE2M1}); };
            break;
    }
    if (self().lane_id == 0) ++self().block->report->products;
    meet(operation, &in, out, where);
}

}  // namespace aerogel::emulator
