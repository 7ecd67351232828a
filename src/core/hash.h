// A fast checksum for large data: finds torn and damaged bytes, no protection against an attacker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace aerogel {

/// XXH64 (Yann Collet, xxHash specification 0.1.1) of the bytes, with that seed.
std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t seed = 0);
std::uint64_t hash_text(std::string_view text, std::uint64_t seed = 0);

}  // namespace aerogel
