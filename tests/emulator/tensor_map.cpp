// The checks are those of the manual of cuTensorMapEncodeTiled.
#include "emulator/tensor_map.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace aerogel::emulator {

namespace {

/// CUtensorMapDataType: UINT8, UINT16, UINT32, INT32, UINT64, INT64, FLOAT16, FLOAT32, FLOAT64, BFLOAT16 ...
int bytes_of(int data_type) {
    constexpr int kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2};
    return data_type >= 0 && data_type < 10 ? kBytes[data_type] : 0;
}

const char* why_not(const TileRequest& r, int bytes) {
    if (bytes == 0) return "an unknown data type";
    if (r.rank < 1 || r.rank > 5) return "the rank is 1 to 5";
    if (reinterpret_cast<std::uintptr_t>(r.address) % 16 != 0) return "the address must be a multiple of 16";
    if (r.interleave != 0 || r.fill != 0) return "interleaving and NaN fill are not emulated";
    if (r.swizzle < 0 || r.swizzle > kSwizzle128) return "an unknown swizzle";
    std::uint64_t elements = 1;
    for (std::uint32_t i = 0; i < r.rank; ++i) {
        if (r.sizes[i] == 0 || r.sizes[i] > std::uint64_t{1} << 32) return "sizes are 1 to 2^32";
        if (r.box[i] == 0 || r.box[i] > 256) return "a box has 1 to 256 elements along a dimension";
        if (r.element_strides[i] != 1) return "element strides other than 1 are not emulated";
        elements *= r.box[i];
    }
    for (std::uint32_t i = 0; i + 1 < r.rank; ++i) {
        if (r.byte_strides[i] % 16 != 0) return "strides must be multiples of 16 bytes";
        if (r.byte_strides[i] >= std::uint64_t{1} << 40) return "strides are below 2^40 bytes";
        if (r.byte_strides[i] <
            r.sizes[i] * (i == 0 ? static_cast<unsigned>(bytes) : r.byte_strides[i - 1])) {
            return "a stride is smaller than what it steps over";
        }
    }
    const std::uint64_t row = r.box[0] * static_cast<unsigned>(bytes);
    if (row % 16 != 0) return "a row of the box must be a multiple of 16 bytes";
    const std::uint64_t span = r.swizzle == kSwizzle128 ? 128 : r.swizzle == kSwizzle64 ? 64 : 32;
    if (r.swizzle != kNoSwizzle && row > span) return "a row of the box is longer than the swizzle";
    if (elements * static_cast<unsigned>(bytes) > 227 * 1024) return "the box is larger than shared memory";
    return nullptr;
}

}  // namespace

const char* encode_tiled(void* map, const TileRequest& r) {
    const int bytes = bytes_of(r.data_type);
    if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0) return "the map must be aligned to 64 bytes";
    if (const char* reason = why_not(r, bytes); reason != nullptr) return reason;
    DecodedMap m{};
    m.magic = kMapMagic;
    m.address = static_cast<unsigned char*>(r.address);
    m.rank = static_cast<std::uint8_t>(r.rank);
    m.element_bytes = static_cast<std::uint8_t>(bytes);
    m.swizzle = static_cast<std::uint8_t>(r.swizzle);
    std::fill(std::begin(m.sizes), std::end(m.sizes), 1U);
    std::fill(std::begin(m.box), std::end(m.box), std::uint16_t{1});
    for (std::uint32_t i = 0; i < r.rank; ++i) {
        m.sizes[i] = static_cast<std::uint32_t>(std::min<std::uint64_t>(r.sizes[i], 0xFFFFFFFF));
        m.box[i] = static_cast<std::uint16_t>(r.box[i]);
        if (i > 0) m.strides[i - 1] = r.byte_strides[i - 1];
    }
    std::memset(map, 0, 128);
    std::memcpy(map, &m, sizeof m);
    return nullptr;
}

}  // namespace aerogel::emulator
