// Weights of four bits times x_q + 128, for tiles of avx2/linear_tile.h. They leave room in int16: eight
// steps of vpmaddubsw are added there before vpmaddwd takes them to int32, so a product needs little more
// than half the instructions of int8 weights. Everything is local to the including file.
#pragma once

#include "kernels/cpu/avx2/linear_tile.h"

namespace aerogel {
namespace {

static_assert(Prefetch::kSteps * 2 * 255 * 8 <= 32767, "what is summed before it is widened must fit int16");

/// words += pairs of products. By hand: the compiler multiplies all first and then finds no registers for the
/// sums.
inline __m256i dot_words(__m256i words, __m256i x, __m256i w) {
    __m256i products;
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
                     : "+x"(words), "=&x"(products)
                     : "x"(x), "x"(w));
    return words;
}

/// Adds pairs of words to sums.
inline void add_words(__m256i words, std::int32_t* sums, bool fresh) {
    const __m256i pairs = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
    store_lanes(sums, fresh ? pairs : _mm256_add_epi32(load_lanes(sums), pairs));
}

/// Up to eight steps. Not inlined: constants hoisted out of a loop around it would take registers of the
/// sums.
template <int kRows>
[[gnu::noinline]] void multiply_portion(const std::int32_t* x, const std::int32_t* w, std::int64_t steps,
                                        std::int32_t* sums, bool fresh) {
    __m256i words[kRows][2];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) words[r][0] = words[r][1] = _mm256_setzero_si256();
    for (const std::int32_t* end = x + steps; x != end; ++x, w += kTileColumns) {
        const __m256i w0 = load_lanes(w), w1 = load_lanes(w + kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            const __m256i row = _mm256_set1_epi32(x[r * kRowSteps]);
            words[r][0] = dot_words(words[r][0], row, w0);
            words[r][1] = dot_words(words[r][1], row, w1);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
        add_words(words[r][0], sums + r * kTileColumns, fresh);
        add_words(words[r][1], sums + r * kTileColumns + kLanes, fresh);
    }
}

template <int kRows>
void multiply_nibble_rows(const Block& block) {
    const auto* w = static_cast<const std::int32_t*>(block.w);
    for (std::int64_t done = 0; done < block.steps; done += Prefetch::kSteps) {
        block.ahead.portion(done / Prefetch::kSteps);
        const std::int64_t rest = block.steps - done;
        multiply_portion<kRows>(block.x + done, w + done * kTileColumns,
                                rest < Prefetch::kSteps ? rest : Prefetch::kSteps,
                                static_cast<std::int32_t*>(block.sums), block.first && done == 0);
    }
}

template <int kRows = static_cast<int>(kTileRows)>
void multiply_nibbles(std::int64_t rows, const Block& block) {
    if constexpr (kRows > 0) {
        if (rows == kRows) return multiply_nibble_rows<kRows>(block);
        multiply_nibbles<kRows - 1>(rows, block);
    }
}

}  // namespace
}  // namespace aerogel
