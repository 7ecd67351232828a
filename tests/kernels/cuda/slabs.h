// Operands in slabs, made a number at a time from what linear_args.h says of them: for the tests of the
// products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cuda/linear_args.h"

namespace aerogel::testing {

enum class Codes { int8, int4, bf16, bf16_int8, bf16_int4, bf16_fp8, bf16_fp4, fp8 };

inline bool is_integer(Codes codes) {
    return codes == Codes::int8 || codes == Codes::int4;
}
inline std::int64_t row_bytes_of(Codes codes) {
    if (codes == Codes::int8 || codes == Codes::fp8 || codes == Codes::bf16) return 128;
    return codes == Codes::bf16_int4 || codes == Codes::bf16_fp4 ? 32 : 64;
}

/// [slabs][rows][row_bytes] for so many columns of x, at 1024 bytes.
class Slabs {
  public:
    Slabs(std::int64_t rows, std::int64_t slabs, std::int64_t row_bytes)
        : rows_(rows),
          row_bytes_(row_bytes),
          bytes_(static_cast<std::size_t>(rows * slabs * row_bytes) + 1024) {}

    unsigned char* data() {
        const auto at = reinterpret_cast<std::uintptr_t>(bytes_.data());
        return bytes_.data() + (1024 - at % 1024) % 1024;
    }

    /// Byte `b` of a row of 128 bytes per slab.
    void put_byte(std::int64_t row, std::int64_t b, std::uint8_t value) {
        const std::int64_t chunk = (b % 128 / 16) ^ (row % 8);
        data()[(b / 128 * rows_ + row) * 128 + chunk * 16 + b % 16] = value;
    }
    void put_half(std::int64_t row, std::int64_t column, std::uint32_t half) {
        put_byte(row, 2 * column, static_cast<std::uint8_t>(half));
        put_byte(row, 2 * column + 1, static_cast<std::uint8_t>(half >> 8));
    }

    /// A code of column `column` of row `j` of w: bits that mma.sync's lanes find as gemm_weights.cuh says.
    void put_code(Codes codes, std::int64_t j, std::int64_t column, std::uint32_t code) {
        const std::int64_t row = cuda::neighbour_order(j);
        if (codes == Codes::int8 || codes == Codes::fp8)
            return put_byte(row, column, static_cast<std::uint8_t>(code));
        if (codes == Codes::bf16) return put_half(row, column, code);
        const std::int64_t width = codes == Codes::int4 ? 32 : 16, step = column / width, i = column % width;
        unsigned char* block = data() + step / 4 * rows_ * row_bytes_ + row / 8 * 8 * row_bytes_;
        if (row_bytes_ == 64) {
            unsigned char* chunk = block + step % 4 * 128 + row % 8 * 16;
            if (codes == Codes::int4) {
                chunk[i % 16] = static_cast<unsigned char>(chunk[i % 16] | (code & 15) << (i / 16 * 4));
            } else {  // lane l: bytes 4 l and following are k = 2 l, 2 l + 1, 2 l + 8, 2 l + 9
                chunk[i % 8 / 2 * 4 + i / 8 * 2 + i % 2] = static_cast<unsigned char>(code);
            }
            return;
        }
        unsigned char* word = block + step % 4 / 2 * 128 + row % 8 * 16 + i % 8 / 2 * 4;
        const std::int64_t nibble = step % 2 * 2 + i / 8 + i % 2 * 4;
        word[nibble / 2] = static_cast<unsigned char>(word[nibble / 2] | (code & 15) << (nibble % 2 * 4));
    }

  private:
    std::int64_t rows_, row_bytes_;
    std::vector<unsigned char> bytes_;
};

}  // namespace aerogel::testing
