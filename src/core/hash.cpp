// XXH64, written from its specification.
#include "core/hash.h"

#include <array>
#include <bit>
#include <cstring>

namespace aerogel {
namespace {

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F,
                        kPrime3 = 0x165667B19E3779F9, kPrime4 = 0x85EBCA77C2B2AE63,
                        kPrime5 = 0x27D4EB2F165667C5;

template <typename T>
T load(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
}

std::uint64_t round(std::uint64_t lane, std::uint64_t input) {
    return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

std::uint64_t merge(std::uint64_t hash, std::uint64_t lane) {
    return (hash ^ round(0, lane)) * kPrime1 + kPrime4;
}

// The four lanes of everything but the last 31 bytes, joined; moves `at` behind what it read.
std::uint64_t hash_stripes(const std::byte*& at, const std::byte* end, std::uint64_t seed) {
    std::array<std::uint64_t, 4> lanes = {seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1};
    for (; end - at >= 32; at += 32) {
        lanes[0] = round(lanes[0], load<std::uint64_t>(at));
        lanes[1] = round(lanes[1], load<std::uint64_t>(at + 8));
        lanes[2] = round(lanes[2], load<std::uint64_t>(at + 16));
        lanes[3] = round(lanes[3], load<std::uint64_t>(at + 24));
    }
    std::uint64_t hash =
        std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) + std::rotl(lanes[3], 18);
    for (const std::uint64_t lane : lanes) hash = merge(hash, lane);
    return hash;
}

}  // namespace

std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t seed) {
    const std::byte* at = bytes.data();
    const std::byte* end = at + bytes.size();
    std::uint64_t hash = bytes.size() >= 32 ? hash_stripes(at, end, seed) : seed + kPrime5;
    hash += bytes.size();
    for (; end - at >= 8; at += 8) {
        hash = std::rotl(hash ^ round(0, load<std::uint64_t>(at)), 27) * kPrime1 + kPrime4;
    }
    if (end - at >= 4) {
        hash = std::rotl(hash ^ (load<std::uint32_t>(at) * kPrime1), 23) * kPrime2 + kPrime3;
        at += 4;
    }
    for (; at < end; ++at) {
        hash = std::rotl(hash ^ (static_cast<std::uint64_t>(*at) * kPrime5), 11) * kPrime1;
    }
    hash = (hash ^ (hash >> 33)) * kPrime2;
    hash = (hash ^ (hash >> 29)) * kPrime3;
    return hash ^ (hash >> 32);
}

std::uint64_t hash_text(std::string_view text, std::uint64_t seed) {
    return hash_bytes(std::as_bytes(std::span(text.data(), text.size())), seed);
}

}  // namespace aerogel
