// int4: bytes by hand, every code, both forms in files, and what is refused.
#include "formats/int4.h"

#include <gtest/gtest.h>

#include "formats/format_cases.h"

namespace aerogel {
namespace {

using testing::bytes_of;
using testing::floats;
using testing::floats_of;
using testing::message_of;

using Ints = std::vector<int>;
using Floats = std::vector<float>;

TEST(Int4, EncodesToNearestEvenAndPacksTheEvenColumnLow) {
    const Tensor weight = floats({1, 9}, {0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -8, 100, -100, 3});
    const QuantizedTensor q = encode_int4(weight, floats({1, 1}, {1}), Tensor());
    // 0 2 | 2 0 | -2 -8 | 7 -8 | 3 and nothing
    EXPECT_EQ(bytes_of(q.data, 5), (Ints{0x20, 0x02, 0x8E, 0x87, 0x03}));
    EXPECT_EQ(q.data.shape(), (Shape{1, 5}));
    EXPECT_EQ(floats_of(dequantize(q), 9), (Floats{0, 2, 2, 0, -2, -8, 7, -8, 3}));
}

TEST(Int4, MinmaxMakesTheLargestSeven) {
    const Tensor weight = floats({2, 4}, {3.5F, -3.5F, 0.25F, 0.75F, 0, 0, 0, 0});
    const QuantizedTensor q = encode_int4(weight, 0);
    EXPECT_EQ(floats_of(q.scale, 2), (Floats{0.5F, 0x1p-23F}));
    EXPECT_EQ(bytes_of(q.data, 4), (Ints{0x97, 0x20, 0, 0}));
    const QuantizedTensor grouped = encode_int4(weight, 2);
    EXPECT_EQ(grouped.group_size, 2);
    EXPECT_EQ(floats_of(grouped.scale, 4), (Floats{0.5F, 0.75F / 7, 0x1p-23F, 0x1p-23F}));
    EXPECT_EQ(bytes_of(grouped.data, 2), (Ints{0x97, 0x72}));  // 0.25 / (0.75 / 7) = 2.33
    EXPECT_EQ(bytes_of(encode_int4(floats({1, 2}, {1e-40F, -1e-45F}), 0).data, 1), (Ints{0}));
}

TEST(Int4, DecodesEveryPairOfCodes) {
    QuantizedTensor weight;
    weight.format = Format::int4;
    weight.rows = 1;
    weight.columns = 512;
    weight.group_size = 256;
    weight.data = Tensor(DType::u8, {1, 256});
    for (int i = 0; i < 256; ++i) weight.data.mutable_as<std::uint8_t>()[i] = static_cast<std::uint8_t>(i);
    weight.scale = floats({1, 2}, {0.5F, 2});
    weight.offset = floats({1, 2}, {-3, 1});
    const Floats got = floats_of(dequantize(weight), 512);
    for (int i = 0; i < 512; ++i) {
        const int nibble = i % 2 == 0 ? i / 2 % 16 : i / 2 / 16;
        const int code = nibble < 8 ? nibble : nibble - 16;
        const float wanted =
            i < 256 ? static_cast<float>(code + 3) * 0.5F : static_cast<float>(code - 1) * 2.0F;
        EXPECT_EQ(got[static_cast<std::size_t>(i)], wanted) << i;
    }
}

TEST(Int4, EncodesWithOffsets) {
    const QuantizedTensor q =
        encode_int4(floats({1, 2}, {0, 7.5F}), floats({1, 1}, {0.5F}), floats({1, 1}, {-8}));
    EXPECT_EQ(bytes_of(q.data, 1), (Ints{0x78}));
    EXPECT_EQ(floats_of(dequantize(q), 2), (Floats{0, 7.5F}));
}

TEST(Int4, ReadsOneValuePerByteAndPacked) {
    Tensor plain(DType::i8, {2, 3});
    const std::int8_t values[6] = {-8, 7, -1, 1, 0, 5};
    std::copy(values, values + 6, plain.mutable_as<std::int8_t>());
    Tensor packed = read_int4(plain, 2, 3);
    EXPECT_EQ(packed.describe(), "u8[2,2]");
    EXPECT_EQ(bytes_of(packed, 4), (Ints{0x78, 0x0F, 0x01, 0x05}));
    EXPECT_EQ(bytes_of(read_int4(packed, 2, 3), 4), bytes_of(packed, 4));
    Tensor as_signed(DType::i8, {2, 2});
    std::copy_n(packed.mutable_as<std::uint8_t>(), 4, static_cast<std::uint8_t*>(as_signed.mutable_data()));
    EXPECT_EQ(read_int4(as_signed, 2, 3).dtype(), DType::u8);
    EXPECT_EQ(bytes_of(read_int4(as_signed, 2, 3), 4), bytes_of(packed, 4));
    plain.mutable_as<std::int8_t>()[4] = 8;
    EXPECT_EQ(message_of([&] { read_int4(plain, 2, 3); }),
              "[int4] data i8[2,3] must be in [-8, 7], got 8 at element 4");
    plain.mutable_as<std::int8_t>()[4] = -9;
    EXPECT_EQ(message_of([&] { read_int4(plain, 2, 3); }),
              "[int4] data i8[2,3] must be in [-8, 7], got -9 at element 4");
    EXPECT_EQ(message_of([&] { read_int4(plain, 3, 2); }),
              "[int4] data must be i8[3,2] or, packed, u8 or i8[3,1], got i8[2,3]");
    EXPECT_EQ(message_of([] { read_int4(Tensor(), 1, 2); }),
              "[int4] data must be i8[1,2] or, packed, u8 or i8[1,1], got nothing");
}

// Every layout, there and back: q = 0 1 -8 7 / 2 -1 3 -4.
TEST(Int4, LayoutsOfFiles) {
    Tensor plain(DType::i8, {2, 4});
    const std::int8_t values[8] = {0, 1, -8, 7, 2, -1, 3, -4};
    std::copy(values, values + 8, plain.mutable_as<std::int8_t>());
    QuantizedTensor weight;
    weight.rows = 2;
    weight.columns = 4;
    weight.data = read_int4(plain, 2, 4);
    const Tensor columns = write_int4(weight, Int4Layout::column_pairs);
    const Tensor rows = write_int4(weight, Int4Layout::row_pairs);
    EXPECT_EQ(bytes_of(columns, 4), (Ints{0x10, 0x78, 0xF2, 0xC3}));
    EXPECT_EQ(bytes_of(rows, 4), (Ints{0x20, 0xF1, 0x38, 0xC7}));
    EXPECT_EQ(bytes_of(write_int4(weight, Int4Layout::bytes), 8), bytes_of(plain, 8));
    for (const Tensor& stored : {plain, columns, rows}) {
        EXPECT_EQ(int4_columns(stored, 2), 4) << stored.describe();
        EXPECT_EQ(bytes_of(read_int4(stored, 2, 4), 4), bytes_of(weight.data, 4)) << stored.describe();
    }
    EXPECT_EQ(message_of([&] { int4_columns(plain, 3); }),
              "[int4] data must be i8 or u8 with 3 or, packed, 1 rows, got i8[2,4]");
    weight.columns = 3;
    weight.data = read_int4(Tensor::zeros(DType::i8, {2, 3}), 2, 3);
    EXPECT_EQ(message_of([&] { write_int4(weight, Int4Layout::column_pairs); }),
              "[int4] packing needs an even number of columns, got [2,3]");
}

TEST(Int4, ProblemsNameBothSides) {
    const auto problem = format_row(Format::int4).problem;
    QuantizedTensor weight = encode_int4(floats({2, 3}, {1, 2, 3, 4, 5, 6}), 0);
    EXPECT_EQ(problem(weight), "");
    weight.dual_scale = floats({1}, {1});
    EXPECT_EQ(problem(weight), "only mxfp4_dual has dual scales");
    weight.dual_scale = Tensor();
    weight.group_size = 2;
    EXPECT_EQ(problem(weight), "group_size must divide the 3 columns, got 2");
    weight.group_size = 1;
    EXPECT_EQ(problem(weight), "scale must be f32[2,3], got f32[2,1]");
    weight.data = Tensor::zeros(DType::i8, {2, 3});
    EXPECT_EQ(problem(weight), "data must be u8[2,2], got i8[2,3]");
    EXPECT_EQ(message_of([] {
                  encode_int4(floats({1, 3}, {1, 2, 3}), 2);
              }),
              "[minmax_scale] group_size must divide the 3 columns, got 2");
    EXPECT_EQ(message_of([] {
                  encode_int4(floats({1, 1}, {1}), floats({1, 1}, {-1}), Tensor());
              }),
              "[int4] scales must be positive, got -1.000000 at element 0");
}

}  // namespace
}  // namespace aerogel
