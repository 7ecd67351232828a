// mma.sync and ldmatrix.
#include "emulator/products.h"

#include <cstring>

#include "emulator/block.h"
#include "emulator/dots.h"
#include "emulator/fragments.h"

namespace aerogel::emulator {

namespace {

const ProductIn& in_of(const Gathered& lanes, int l) {
    return *static_cast<const ProductIn*>(lanes.in[l]);
}

/// The tiles as they are in memory, 32 bytes of k in a row. Registers lie alike, whatever is in them.
struct Tiles {
    alignas(64) unsigned char a[16 * 32], b[8 * 32];

    explicit Tiles(const Gathered& lanes) {
        const auto put = [](unsigned char* tile, Place at, std::uint32_t value) {
            std::memcpy(tile + at.row * 32 + at.column, &value, 4);
        };
        for (int l = 0; l < 32; ++l) {
            const ProductIn& in = in_of(lanes, l);
            for (int r = 0; r < 4; ++r) put(a, place_in_a(4, l, r, 0), in.a[r]);
            for (int r = 0; r < 2; ++r) put(b, place_in_b(4, l, r, 0), in.b[r]);
        }
    }
};

template <bool kSigned>
void multiply_bytes(const Gathered& lanes) {
    const Tiles tiles(lanes);
    alignas(64) std::int16_t a[16 * 32], b[8 * 32];
    widen(tiles.a, a, 16 * 32, kSigned);
    widen(tiles.b, b, 8 * 32, true);
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

template <Product product>
void multiply_floats(const Gathered& lanes) {
    const Tiles tiles(lanes);
    constexpr int kDepth = depth_of(product);
    alignas(64) float a[16 * 32], b[8 * 32], columns[8 * 32];
    alignas(64) double sums[16 * 8];
    widen(product, tiles.a, a, 16 * kDepth);
    widen(product, tiles.b, b, 8 * kDepth);
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
            operation = multiply_bytes<true>;
            break;
        case Product::u8s8:
            operation = multiply_bytes<false>;
            break;
        case Product::bf16:
            operation = multiply_floats<Product::bf16>;
            break;
        case Product::f16:
            operation = multiply_floats<Product::f16>;
            break;
        case Product::e4m3:
            operation = multiply_floats<Product::e4m3>;
            break;
        case Product::e5m2:
            operation = multiply_floats<Product::e5m2>;
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
