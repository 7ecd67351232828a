// mma.sync and ldmatrix.
#include "emulator/products.h"

#include <cstring>

#include "emulator/block.h"
#include "emulator/dots.h"
#include "emulator/fragments.h"
#include "emulator/numbers.h"

namespace aerogel::emulator {

namespace {

const ProductIn& in_of(const Gathered& lanes, int l) {
    return *static_cast<const ProductIn*>(lanes.in[l]);
}

/// The tiles as arrays: a [16, 8 per], b [8, 8 per].
template <int per, class T, class DecodeA, class DecodeB>
void unpack(const Gathered& lanes, T* a, T* b, DecodeA decode_a, DecodeB decode_b) {
    constexpr int width = 32 / per, k = 8 * per;
    for (int l = 0; l < 32; ++l) {
        const ProductIn& in = in_of(lanes, l);
        for (int i = 0; i < per; ++i) {
            for (int r = 0; r < 4; ++r) {
                const Place p = place_in_a(per, l, r, i);
                a[p.row * k + p.column] = decode_a(in.a[r] >> (width * i));
            }
            for (int r = 0; r < 2; ++r) {
                const Place p = place_in_b(per, l, r, i);
                b[p.row * k + p.column] = decode_b(in.b[r] >> (width * i));
            }
        }
    }
}

std::int16_t signed_byte(std::uint32_t u) {
    return static_cast<std::int16_t>(static_cast<std::int8_t>(u));
}
std::int16_t unsigned_byte(std::uint32_t u) {
    return static_cast<std::int16_t>(u & 0xFF);
}

template <std::int16_t (*decode_a)(std::uint32_t)>
void multiply_bytes(const Gathered& lanes) {
    alignas(64) std::int16_t a[16 * 32], b[8 * 32];
    unpack<4>(lanes, a, b, decode_a, signed_byte);
    std::int32_t sums[16 * 8] = {};
    add_products(a, b, sums, {16, 8, 32});
    for (int l = 0; l < 32; ++l) {
        auto* out = static_cast<std::uint32_t*>(lanes.out[l]);
        for (int i = 0; i < 4; ++i) {
            const Place p = place_in_c(l, i);
            out[i] = in_of(lanes, l).c[i] + static_cast<std::uint32_t>(sums[p.row * 8 + p.column]);
        }
    }
}

template <int per, class Decode>
void multiply_floats(const Gathered& lanes, Decode decode) {
    constexpr int kDepth = 8 * per;
    alignas(64) float a[16 * kDepth], b[8 * kDepth];
    alignas(64) float columns[kDepth * 8];
    alignas(64) double sums[16 * 8];
    unpack<per>(lanes, a, b, decode, decode);
    for (int k = 0; k < kDepth; ++k) {
        for (int n = 0; n < 8; ++n) columns[k * 8 + n] = b[n * kDepth + k];
    }
    multiply_exactly(a, columns, sums, {16, 8, kDepth});
    for (int l = 0; l < 32; ++l) {
        auto* out = static_cast<std::uint32_t*>(lanes.out[l]);
        for (int i = 0; i < 4; ++i) {
            const Place p = place_in_c(l, i);
            const auto c = static_cast<double>(std::bit_cast<float>(in_of(lanes, l).c[i]));
            out[i] = std::bit_cast<std::uint32_t>(static_cast<float>(c + sums[p.row * 8 + p.column]));
        }
    }
}

/// The 256 numbers of an 8-bit format.
template <const SmallFloat& format>
float decode8(std::uint32_t bits) {
    static const auto table = [] {
        std::array<float, 256> t;
        for (std::uint32_t i = 0; i < 256; ++i) t[i] = decode(format, i);
        return t;
    }();
    return table[bits & 0xFF];
}

constexpr SmallFloat kFormatE4M3 = kE4M3, kFormatE5M2 = kE5M2;

float decode_f16(std::uint32_t bits) {
    static const auto table = [] {
        std::vector<float> t(1 << 16);
        for (std::uint32_t i = 0; i < t.size(); ++i) t[i] = decode(kF16, i);
        return t;
    }();
    return table[bits & 0xFFFF];
}

/// ldmatrix goes by tile: eight rows of 16 bytes, which lie in different banks or come one after the other.
unsigned conflicts_of(const unsigned char* const* rows) {
    unsigned used = 0, conflicts = 0;
    for (int i = 0; i < 8; ++i) {
        const unsigned bit = 1U << (reinterpret_cast<std::uintptr_t>(rows[i]) / 16 % 8);
        bool same = false;
        for (int j = 0; j < i; ++j) same |= rows[j] == rows[i];
        if ((used & bit) != 0 && !same) ++conflicts;
        used |= bit;
    }
    return conflicts;
}

template <int count, bool transposed>
void load_tiles(const Gathered& lanes) {
    Report& report = *self().block->report;
    ++report.matrix_loads;
    for (int m = 0; m < count; ++m) {
        const unsigned char* rows[8];
        for (int i = 0; i < 8; ++i) rows[i] = static_cast<const unsigned char*>(lanes.in[m * 8 + i]);
        report.matrix_conflicts += conflicts_of(rows);
        for (int l = 0; l < 32; ++l) {
            std::uint32_t* out = static_cast<std::uint32_t*>(lanes.out[l]) + m;
            if (transposed) {
                std::uint16_t low, high;
                std::memcpy(&low, rows[l % 4 * 2] + l / 4 * 2, 2);
                std::memcpy(&high, rows[l % 4 * 2 + 1] + l / 4 * 2, 2);
                *out = low | static_cast<std::uint32_t>(high) << 16;
            } else {
                std::memcpy(out, rows[l / 4] + l % 4 * 4, 4);
            }
        }
    }
}

}  // namespace

void multiply(Product product, const ProductIn& in, std::uint32_t* out, Where where) {
    Operation operation = nullptr;
    switch (product) {
        case Product::s8:
            operation = multiply_bytes<signed_byte>;
            break;
        case Product::u8s8:
            operation = multiply_bytes<unsigned_byte>;
            break;
        case Product::bf16:
            operation = [](const Gathered& g) {
                multiply_floats<2>(g, [](std::uint32_t u) { return float_of_bf16(u & 0xFFFF); });
            };
            break;
        case Product::f16:
            operation = [](const Gathered& g) { multiply_floats<2>(g, decode_f16); };
            break;
        case Product::e4m3:
            operation = [](const Gathered& g) { multiply_floats<4>(g, decode8<kFormatE4M3>); };
            break;
        case Product::e5m2:
            operation = [](const Gathered& g) { multiply_floats<4>(g, decode8<kFormatE5M2>); };
            break;
    }
    if (self().lane_id == 0) ++self().block->report->products;
    meet(operation, &in, out, where);
}

void load_matrices(std::uint32_t* out, const void* row, int count, bool transposed, Where where) {
    // With fewer than four tiles the addresses of the other lanes are not used.
    if (static_cast<int>(self().lane_id) < 8 * count) read_shared(row, 16, where);
    Operation operation = nullptr;
    switch (count) {
        case 1:
            operation = transposed ? load_tiles<1, true> : load_tiles<1, false>;
            break;
        case 2:
            operation = transposed ? load_tiles<2, true> : load_tiles<2, false>;
            break;
        default:
            operation = transposed ? load_tiles<4, true> : load_tiles<4, false>;
            break;
    }
    meet(operation, row, out, where);
}

}  // namespace aerogel::emulator
