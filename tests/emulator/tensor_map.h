// Tensor maps: the fake driver's cuTensorMapEncodeTiled makes them, the emulated TMA reads them. 128 opaque
// bytes.
#pragma once

#include <cstdint>

namespace aerogel::emulator {

/// The parameters of cuTensorMapEncodeTiled, in its order.
struct TileRequest {
    int data_type;
    std::uint32_t rank;
    void* address;
    const std::uint64_t* sizes;
    const std::uint64_t* byte_strides;  ///< of the dimensions after the first
    const std::uint32_t* box;
    const std::uint32_t* element_strides;
    int interleave, swizzle, promotion, fill;
};

struct DecodedMap {
    std::uint64_t magic;
    unsigned char* address;
    std::uint64_t strides[4];
    std::uint32_t sizes[5];
    std::uint16_t box[5];
    std::uint8_t rank, element_bytes, swizzle, unused;
};
static_assert(sizeof(DecodedMap) <= 128);
constexpr std::uint64_t kMapMagic = 0x70616D6F726561ULL;
/// CUtensorMapSwizzle
constexpr int kNoSwizzle = 0, kSwizzle32 = 1, kSwizzle64 = 2, kSwizzle128 = 3;

/// Null, or why the driver would refuse. map: 128 bytes, aligned to 64.
const char* encode_tiled(void* map, const TileRequest& request);

/// Chunks of 16 bytes change places: where the byte at that address of shared memory lies.
constexpr std::size_t swizzled_address(int swizzle, std::size_t address) {
    const std::size_t rows = swizzle == kSwizzle128  ? 7
                             : swizzle == kSwizzle64 ? 3
                             : swizzle == kSwizzle32 ? 1
                                                     : 0;
    return address ^ ((address >> 7 & rows) << 4);
}

}  // namespace aerogel::emulator
