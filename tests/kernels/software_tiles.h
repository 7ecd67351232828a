// AMX in loops over AVX2. tests/CMakeLists.txt builds the kernels of src/kernels/cpu/amx once more with this
// file and software_avx512.h before them, so that their tile instructions become the functions below; what
// the instructions refuse ends the test. Everything is local to the including file.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#undef _tile_dpbusd
#undef _tile_dpbf16ps
#define _tile_loadconfig software_tiles::configure
#define _tile_release software_tiles::release
#define _tile_loadd software_tiles::load
#define _tile_stored software_tiles::store
#define _tile_zero software_tiles::zero
#define _tile_dpbssd software_tiles::dot_bytes<std::int8_t>
#define _tile_dpbusd software_tiles::dot_bytes<std::uint8_t>
#define _tile_dpbf16ps software_tiles::dot_bf16

namespace {
namespace software_tiles {

struct Tile {
    std::int64_t rows, row_bytes;  ///< none: not configured
    alignas(64) std::byte bytes[16][64];

    template <typename T>
    T* row(std::int64_t i) {
        return reinterpret_cast<T*>(bytes[i]);
    }
};

thread_local Tile tiles[8];

inline void must(bool holds) {
    if (!holds) __builtin_trap();
}

inline void release() {
    for (Tile& tile : tiles) tile = {};
}

inline void configure(const void* shapes) {
    const auto* from = static_cast<const std::byte*>(shapes);
    must(from[0] == std::byte{1});
    for (int t = 0; t < 8; ++t) {
        tiles[t] = {};
        std::uint16_t row_bytes = 0;
        __builtin_memcpy(&row_bytes, from + 16 + 2 * t, 2);
        tiles[t].row_bytes = row_bytes;
        tiles[t].rows = static_cast<std::int64_t>(from[48 + t]);
        must(tiles[t].rows <= 16 && row_bytes <= 64 && row_bytes % 4 == 0);
    }
}

inline Tile& used(int t) {
    must(tiles[t].rows > 0 && tiles[t].row_bytes > 0);
    return tiles[t];
}

inline void zero(int t) {
    __builtin_memset(used(t).bytes, 0, sizeof(Tile::bytes));
}

inline void load(int t, const void* from, std::int64_t stride) {
    zero(t);
    for (std::int64_t i = 0; i < tiles[t].rows; ++i)
        __builtin_memcpy(tiles[t].bytes[i], static_cast<const std::byte*>(from) + i * stride,
                         static_cast<std::size_t>(tiles[t].row_bytes));
}

inline void store(int t, void* to, std::int64_t stride) {
    const Tile& tile = used(t);
    for (std::int64_t i = 0; i < tile.rows; ++i)
        __builtin_memcpy(static_cast<std::byte*>(to) + i * stride, tile.bytes[i],
                         static_cast<std::size_t>(tile.row_bytes));
}

inline void must_fit(const Tile& sums, const Tile& rows, const Tile& columns) {
    must(sums.rows == rows.rows && sums.row_bytes == columns.row_bytes && rows.row_bytes / 4 == columns.rows);
}

template <typename T>
__m256i even_bytes(__m256i x) {
    return std::is_signed_v<T> ? _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8)
                               : _mm256_and_si256(x, _mm256_set1_epi16(0xFF));
}
template <typename T>
__m256i odd_bytes(__m256i x) {
    return std::is_signed_v<T> ? _mm256_srai_epi16(x, 8) : _mm256_srli_epi16(x, 8);
}

/// T: of the rows; columns are signed. Sums wrap around. What lies behind the columns is zero.
template <typename T>
void dot_bytes(int to, int a, int b) {
    Tile &sums = used(to), &rows = used(a), &columns = used(b);
    must_fit(sums, rows, columns);
    for (std::int64_t i = 0; i < sums.rows; ++i) {
        for (std::int64_t k = 0; k < columns.rows; ++k) {
            const __m256i x = _mm256_set1_epi32(rows.row<std::int32_t>(i)[k]);
            for (std::int64_t half = 0; half < 2; ++half) {
                const __m256i w = columns.row<__m256i>(k)[half];
                const __m256i even = _mm256_madd_epi16(even_bytes<T>(x), even_bytes<std::int8_t>(w));
                const __m256i odd = _mm256_madd_epi16(odd_bytes<T>(x), odd_bytes<std::int8_t>(w));
                auto& sum = sums.row<__m256i>(i)[half];
                sum = _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
            }
        }
    }
}

inline void dot_bf16(int to, int a, int b) {
    Tile &sums = used(to), &rows = used(a), &columns = used(b);
    must_fit(sums, rows, columns);
    const auto value = [](std::uint16_t bits) {
        return __builtin_bit_cast(float, std::uint32_t{bits} << 16);
    };
    for (std::int64_t i = 0; i < sums.rows; ++i) {
        auto* out = sums.row<float>(i);
        for (std::int64_t k = 0; k < columns.rows; ++k) {
            const auto* x = rows.row<std::uint16_t>(i) + 2 * k;
            const auto* w = columns.row<std::uint16_t>(k);
            for (std::int64_t n = 0; n < sums.row_bytes / 4; ++n)
                out[n] += value(x[0]) * value(w[2 * n]) + value(x[1]) * value(w[2 * n + 1]);
        }
    }
}

}  // namespace software_tiles
}  // namespace
