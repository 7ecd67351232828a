// One function per type; a block at a time, rows of a matrix in parallel.
#include "formats/gguf_blocks.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "aerogel/number_types.h"
#include "base/thread_pool.h"
#include "formats/nibbles.h"

namespace aerogel {
namespace {

using Byte = std::uint8_t;

constexpr int kSuper = 256;  // numbers of a block of the types with K

float half_at(const Byte* at) {
    Float16 half;
    std::memcpy(&half.bits, at, sizeof(half.bits));
    return to_float(half);
}

// The nibble of number i of 32: the low ones come first.
int nibble(const Byte* bytes, int i) {
    return i < 16 ? bytes[i] & 0xF : bytes[i - 16] >> 4;
}

int fifth_bit(const Byte* bytes, int i) {
    return bytes[i / 8] >> (i % 8) & 1;
}

void q8_0(const Byte* block, float* out) {
    const float d = half_at(block);
    for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<std::int8_t>(block[2 + i])) * d;
}

void q4_0(const Byte* block, float* out) {
    const float d = half_at(block);
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(nibble(block + 2, i) - 8);
}

void q4_1(const Byte* block, float* out) {
    const float d = half_at(block), m = half_at(block + 2);
    for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(nibble(block + 4, i)) + m;
}

void q5_0(const Byte* block, float* out) {
    const float d = half_at(block);
    for (int i = 0; i < 32; ++i)
        out[i] = d * static_cast<float>((nibble(block + 6, i) | fifth_bit(block + 2, i) << 4) - 16);
}

void q5_1(const Byte* block, float* out) {
    const float d = half_at(block), m = half_at(block + 2);
    for (int i = 0; i < 32; ++i)
        out[i] = d * static_cast<float>(nibble(block + 8, i) | fifth_bit(block + 4, i) << 4) + m;
}

// Two bits of number i of 256: 128 numbers share 32 bytes, 32 numbers a pair of bits of each.
int two_bits(const Byte* bytes, int i) {
    return bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

// Four bits: 64 numbers share 32 bytes, the low halves first.
int four_bits(const Byte* bytes, int i) {
    return bytes[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 0xF;
}

void q2_k(const Byte* block, float* out) {
    const Byte *scales = block, *codes = block + 16;
    const float d = half_at(block + 80), low = half_at(block + 82);
    for (int i = 0; i < kSuper; ++i) {
        const float scale = d * static_cast<float>(scales[i / 16] & 0xF);
        const float least = low * static_cast<float>(scales[i / 16] >> 4);
        out[i] = scale * static_cast<float>(two_bits(codes, i)) - least;
    }
}

// Sixteen scales of 6 bits: the low four in eight bytes (two each), the high two in four (four each).
int q3_scale(const Byte* scales, int i) {
    const int low = i < 8 ? scales[i] & 0xF : scales[i - 8] >> 4;
    return (low | (scales[8 + i % 4] >> (i / 4 * 2) & 3) << 4) - 32;
}

void q3_k(const Byte* block, float* out) {
    const Byte *mask = block, *codes = block + 32, *scales = block + 96;
    const float d = half_at(block + 108);
    for (int i = 0; i < kSuper; ++i) {
        const float scale = d * static_cast<float>(q3_scale(scales, i / 16));
        const int high = mask[i % 32] >> (i / 32) & 1;  // where it is set, nothing is taken off
        out[i] = scale * static_cast<float>(two_bits(codes, i) - (high ^ 1) * 4);
    }
}

struct ScaleAndLeast {
    int scale;
    int least;
};

// Eight pairs of 6 bits in twelve bytes.
ScaleAndLeast k_scale(const Byte* scales, int i) {
    if (i < 4) return {scales[i] & 0x3F, scales[4 + i] & 0x3F};
    const Byte both = scales[4 + i];
    return {(both & 0xF) | (scales[i - 4] >> 2 & 0x30), (both >> 4) | (scales[i] >> 2 & 0x30)};
}

void q4_k(const Byte* block, float* out) {
    const float d = half_at(block), low = half_at(block + 2);
    for (int group = 0; group < 8; ++group) {
        const ScaleAndLeast by = k_scale(block + 4, group);
        const float scale = d * static_cast<float>(by.scale), least = low * static_cast<float>(by.least);
        for (int i = 32 * group; i < 32 * group + 32; ++i)
            out[i] = scale * static_cast<float>(four_bits(block + 16, i)) - least;
    }
}

void q5_k(const Byte* block, float* out) {
    const float d = half_at(block), low = half_at(block + 2);
    const Byte* high = block + 16;
    for (int group = 0; group < 8; ++group) {
        const ScaleAndLeast by = k_scale(block + 4, group);
        const float scale = d * static_cast<float>(by.scale), least = low * static_cast<float>(by.least);
        for (int i = 32 * group; i < 32 * group + 32; ++i) {
            const int code = four_bits(block + 48, i) | (high[i % 32] >> group & 1) << 4;
            out[i] = scale * static_cast<float>(code) - least;
        }
    }
}

// 128 numbers share 64 bytes of low halves and 32 bytes of pairs of high bits.
void q6_k(const Byte* block, float* out) {
    const Byte *low = block, *high = block + 128, *scales = block + 192;
    const float d = half_at(block + 208);
    for (int i = 0; i < kSuper; ++i) {
        const float scale = d * static_cast<float>(static_cast<std::int8_t>(scales[i / 16]));
        const int part = i % 128;
        const int code = (low[i / 128 * 64 + part % 64] >> (part / 64 * 4) & 0xF) | two_bits(high, i) << 4;
        out[i] = scale * static_cast<float>(code - 32);
    }
}

void f32(const Byte* block, float* out) {
    std::memcpy(out, block, sizeof(float));
}

void f16(const Byte* block, float* out) {
    *out = half_at(block);
}

void bf16(const Byte* block, float* out) {
    BFloat16 value;
    std::memcpy(&value.bits, block, sizeof(value.bits));
    *out = to_float(value);
}

struct Decoder {
    std::string_view type;
    void (*decode)(const Byte* block, float* out);
};

constexpr std::array kDecoders = std::to_array<Decoder>({{"F32", f32},
                                                         {"F16", f16},
                                                         {"BF16", bf16},
                                                         {"Q8_0", q8_0},
                                                         {"Q4_0", q4_0},
                                                         {"Q4_1", q4_1},
                                                         {"Q5_0", q5_0},
                                                         {"Q5_1", q5_1},
                                                         {"Q2_K", q2_k},
                                                         {"Q3_K", q3_k},
                                                         {"Q4_K", q4_k},
                                                         {"Q5_K", q5_k},
                                                         {"Q6_K", q6_k}});

// f(block) for each, in parallel.
template <typename F>
void for_each_block(std::int64_t blocks, F&& f) {
    constexpr std::int64_t kTogether = 256;
    run_operation([&] {
        parallel_for((blocks + kTogether - 1) / kTogether, [&](std::int64_t task, int) {
            const std::int64_t end = std::min(blocks, (task + 1) * kTogether);
            for (std::int64_t block = task * kTogether; block < end; ++block) f(block);
        });
    });
}

}  // namespace

void dequantize_blocks(const GgufType& type, std::span<const std::byte> blocks, std::int64_t count,
                       float* out) {
    const auto* row = std::find_if(kDecoders.begin(), kDecoders.end(),
                                   [&](const Decoder& decoder) { return decoder.type == type.name; });
    const auto* data = reinterpret_cast<const Byte*>(blocks.data());
    for_each_block(count / type.block, [&](std::int64_t block) {
        row->decode(data + block * type.block_bytes, out + block * type.block);
    });
}

std::optional<QuantizedTensor> quantized_blocks(const GgufType& type, std::span<const std::byte> blocks,
                                                std::int64_t rows, std::int64_t columns) {
    const bool bytes = type.name == "Q8_0";
    if (!bytes && type.name != "Q4_0") return std::nullopt;
    QuantizedTensor out;
    out.format = bytes ? Format::int8 : Format::int4;
    out.rows = rows;
    out.columns = columns;
    out.group_size = type.block;
    out.data = bytes ? Tensor(DType::i8, {rows, columns}) : Tensor(DType::u8, nibble_shape(rows, columns));
    out.scale = Tensor(DType::f32, {rows, columns / type.block});
    const auto* data = reinterpret_cast<const Byte*>(blocks.data());
    auto* codes = static_cast<Byte*>(out.data.mutable_data());
    auto* scales = out.scale.mutable_as<float>();
    for_each_block(rows * columns / type.block, [&](std::int64_t block) {
        const Byte* from = data + block * type.block_bytes;
        scales[block] = half_at(from);
        if (bytes) {
            std::memcpy(codes + block * 32, from + 2, 32);
            return;
        }
        // ggml: numbers 0 to 15 in the low halves, the rest in the high ones, 8 too much; ours: neighbours,
        // signed.
        for (int i = 0; i < 16; ++i) {
            const int even = nibble(from + 2, 2 * i) ^ 8, odd = nibble(from + 2, 2 * i + 1) ^ 8;
            codes[block * 16 + i] = static_cast<Byte>(even | odd << 4);
        }
    });
    return out;
}

}  // namespace aerogel
