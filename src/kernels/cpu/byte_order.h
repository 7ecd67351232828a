// The order of the columns of x in the workspace of the integer kernels. Included by sources built for one
// CPU level, so everything is local to the including file.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace aerogel {
namespace {

/// As they are, or of each eight the even ones first: the order in which nibbles come out of their bytes.
enum class ByteOrder : std::uint8_t { plain, halves };

/// For a shuffle of sixteen.
inline __m128i places_of(ByteOrder order) {
    return order == ByteOrder::plain ? _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
                                     : _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
}

}  // namespace
}  // namespace aerogel
