// What this CPU can run, as an ordered level. AEROGEL_CPU holds the level down.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace aerogel {

/// Levels in order; each includes those before it, but for avxvnni, which some CPUs with AVX-512 lack.
/// avxvnni is AVX2 with the 256-bit dot product of bytes (Intel's client CPUs since Alder Lake, Zen 5);
/// avx512 means F, BW, VL, DQ and VNNI together (every CPU since Ice Lake / Zen 4); avx512_bf16 adds products
/// of bfloat16 (Zen 4, Cooper Lake, Sapphire Rapids), amx the tile unit with int8 and bf16.
enum class CpuLevel : std::uint8_t { baseline, avx2, avxvnni, avx512, avx512_bf16, amx };

std::string_view to_string(CpuLevel level);

/// What the CPU and the operating system offer.
CpuLevel detected_cpu_level();
/// Whether the CPU can run what is compiled for this level.
bool cpu_has(CpuLevel level);
/// detected_cpu_level(), held down by AEROGEL_CPU=baseline|avx2|avxvnni|avx512|avx512_bf16|amx. Throws
/// InvalidArgument on another value or on a level this CPU lacks. Read once per process.
CpuLevel cpu_level();
/// "GenuineIntel Intel(R) Xeon(R) ..." for reports.
std::string cpu_name();

}  // namespace aerogel
