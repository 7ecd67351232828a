// CPUID, XGETBV and the AMX permission call; everything read once.
#include "base/cpu_features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "aerogel/error.h"
#include "base/environment.h"

namespace aerogel {
namespace {

constexpr std::array<std::string_view, 6> kNames = {"baseline", "avx2",        "avxvnni",
                                                    "avx512",   "avx512_bf16", "amx"};

struct Registers {
    unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers r;
    __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
    return r;
}

bool bit(unsigned value, unsigned index) {
    return ((value >> index) & 1U) != 0;
}

std::uint64_t enabled_states() {
    unsigned low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
}

// Linux hands out the tile registers only to processes that ask (arch_prctl ARCH_REQ_XCOMP_PERM).
bool request_amx() {
    constexpr long kRequestPermission = 0x1023;
    constexpr long kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool detect_avx_vnni() {
    return bit(cpuid(7, 1).a, 4);
}

CpuLevel detect() {
    const Registers basic = cpuid(1, 0);
    if (!bit(basic.c, 27) || !bit(basic.c, 28)) return CpuLevel::baseline;  // OSXSAVE, AVX
    const std::uint64_t states = enabled_states();
    const Registers extended = cpuid(7, 0);
    const bool avx2 = (states & 0x6) == 0x6 && bit(extended.b, 5) && bit(basic.c, 12) && bit(basic.c, 29);
    if (!avx2) return CpuLevel::baseline;
    const bool foundation =
        bit(extended.b, 16) && bit(extended.b, 17) && bit(extended.b, 30) && bit(extended.b, 31);
    if ((states & 0xE6) != 0xE6 || !foundation || !bit(extended.c, 11)) {
        return detect_avx_vnni() ? CpuLevel::avxvnni : CpuLevel::avx2;
    }
    if (!bit(cpuid(7, 1).a, 5)) return CpuLevel::avx512;
    constexpr std::uint64_t kTileStates = 0x60000;
    const bool tiles = bit(extended.d, 24) && bit(extended.d, 25) && bit(extended.d, 22);
    if (tiles && (states & kTileStates) == kTileStates && request_amx()) return CpuLevel::amx;
    return CpuLevel::avx512_bf16;
}

CpuLevel choose_level() {
    const CpuLevel detected = detected_cpu_level();
    const auto wanted = environment_choice("AEROGEL_CPU", {kNames.begin(), kNames.end()});
    if (!wanted) return detected;
    for (std::size_t i = 0; i < kNames.size(); ++i) {
        const auto level = static_cast<CpuLevel>(i);
        if (*wanted != to_string(level)) continue;
        if (!cpu_has(level)) {
            throw InvalidArgument("[environment] AEROGEL_CPU=" + *wanted +
                                  " asks for more than this CPU has (" + std::string(to_string(detected)) +
                                  (level < detected ? " without AVX-VNNI)" : ")"));
        }
        return level;
    }
    return detected;
}

}  // namespace

std::string_view to_string(CpuLevel level) {
    return kNames.at(static_cast<std::size_t>(level));
}

CpuLevel detected_cpu_level() {
    static const CpuLevel level = detect();
    return level;
}

bool cpu_has(CpuLevel level) {
    static const bool has_avx_vnni = detected_cpu_level() >= CpuLevel::avxvnni && detect_avx_vnni();
    return level <= detected_cpu_level() && (level != CpuLevel::avxvnni || has_avx_vnni);
}

CpuLevel cpu_level() {
    static const CpuLevel level = choose_level();
    return level;
}

std::string cpu_name() {
    std::array<unsigned, 12> words{};
    for (unsigned i = 0; i < 3; ++i) {
        const Registers r = cpuid(0x80000002U + i, 0);
        const std::array<unsigned, 4> part = {r.a, r.b, r.c, r.d};
        std::memcpy(&words[4 * i], part.data(), sizeof(part));
    }
    std::string name(sizeof(words), '\0');
    std::memcpy(name.data(), words.data(), sizeof(words));
    name.resize(std::strlen(name.c_str()));
    return name;
}

}  // namespace aerogel
