// Rotations on the way to the products, in the emulator: a row with a single number becomes a column of the
// matrix, all of whose numbers have one size, so its integers are 127 with the matrix's signs. With ConvRot
// the columns of x lie in another order.
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "emulator/emulator.h"
#include "kernels/cuda/slabs.h"

using aerogel::cuda::QuantizeArgs;

extern "C" void aerogel_quantize_rotated_integers(QuantizeArgs);

namespace aerogel::testing {
namespace {

/// Of Sylvester's matrix, or of ConvRot's, whose digits to base four are minus one where they add up to
/// three.
int sign_of(bool convrot, unsigned i, unsigned j) {
    if (!convrot) return std::popcount(i & j) % 2 == 0 ? 1 : -1;
    int sign = 1;
    for (; i != 0 || j != 0; i /= 4, j /= 4)
        if (i % 4 + j % 4 == 3) sign = -sign;
    return sign;
}

std::string rotate(bool convrot, int block, std::uint64_t seed) {
    const int columns = block < 40 ? 40 / block * block : 2 * block;
    const auto size = static_cast<std::size_t>(columns);
    std::vector<float> x(size * size), factors(size), s_t(size);
    std::vector<std::int32_t> order(size);
    for (std::size_t j = 0; j < size; ++j) {
        const std::size_t from = convrot ? (7 * j + 3) % size : j;  // no column twice: 7 divides no size
        order[j] = static_cast<std::int32_t>(from);
        x[j * size + from] = 3.0F;
        factors[j] = j % 3 == 0 ? -1.0F : 1.0F;
    }
    const int slabs = (columns + 127) / 128;
    Slabs codes(columns, slabs, 128), wanted(columns, slabs, 128);
    QuantizeArgs q = {};
    q.x = x.data();
    q.slabs = codes.data();
    q.column_order = convrot ? order.data() : nullptr;
    q.s_t = s_t.data();
    q.x_stride = q.rows = columns;
    q.k = columns;
    q.width = slabs * 128;
    q.top = 127;
    q.rotation = block;
    q.convrot = convrot ? 1 : 0;
    q.rotation_factor = 1.0F;
    q.rotation_factors = factors.data();
    emulator::Options options;
    options.seed = seed;
    const emulator::Report report =
        emulator::launch({{static_cast<unsigned>(columns)}, {64}, cuda::kQuantizeWords * 4 + 4096},
                         aerogel_quantize_rotated_integers, q, options);
    if (!report.ok()) return report.text();
    for (int row = 0; row < columns; ++row)
        for (int i = 0; i < columns; ++i) {
            const bool inside = i / block == row / block;
            const int sign =
                sign_of(convrot, static_cast<unsigned>(i % block), static_cast<unsigned>(row % block)) *
                (row % 3 == 0 ? -1 : 1);
            wanted.put_byte(row, i, static_cast<std::uint8_t>(inside ? 127 * sign : 0));
        }
    const auto bytes = static_cast<std::size_t>(columns) * static_cast<std::size_t>(slabs) * 128;
    return std::memcmp(codes.data(), wanted.data(), bytes) == 0
               ? ""
               : (convrot ? "convrot " : "hadamard ") + std::to_string(block);
}

TEST(QuantizedRotation, has_the_signs_of_the_matrix) {
    for (const int block : {1, 2, 4, 8, 16, 32, 64, 128, 256})
        EXPECT_EQ(rotate(false, block, static_cast<std::uint64_t>(block)), "");
    for (const int block : {1, 4, 16, 64, 256})
        EXPECT_EQ(rotate(true, block, static_cast<std::uint64_t>(block)), "");
}

}  // namespace
}  // namespace aerogel::testing
