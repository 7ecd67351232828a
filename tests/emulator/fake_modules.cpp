// Fat binaries, and functions called by name.
#include "emulator/fake_modules.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstring>

namespace aerogel::emulator {

namespace {

constexpr std::uint32_t kFatMagic = 0xBA55ED50;

template <class T>
T field(const unsigned char* p, std::size_t offset) {
    T v;
    std::memcpy(&v, p + offset, sizeof v);
    return v;
}

/// Structs of more than 16 bytes lie on the stack, at its first place, whatever their size.
template <std::size_t kBytes>
struct alignas(64) Arguments {
    unsigned char bytes[kBytes];
};

struct Call {
    void* function;
    const std::vector<unsigned char>* arguments;
};

template <std::size_t kBytes>
void call(const void* p) {
    const auto* c = static_cast<const Call*>(p);
    Arguments<kBytes> copy;
    std::memcpy(copy.bytes, c->arguments->data(), c->arguments->size());
    reinterpret_cast<void (*)(Arguments<kBytes>)>(c->function)(copy);
}

}  // namespace

std::vector<int> targets_of(const void* image) {
    const auto* p = static_cast<const unsigned char*>(image);
    if (std::memcmp(p,
                    "\x7f"
                    "ELF",
                    4) == 0)
        return {static_cast<int>(field<std::uint32_t>(p, 48) >> 8 & 0xFF)};
    if (field<std::uint32_t>(p, 0) != kFatMagic) return {};
    std::vector<int> targets;
    std::size_t at = field<std::uint16_t>(p, 6);
    const std::size_t end = at + field<std::uint64_t>(p, 8);
    while (at + 64 <= end) {
        const auto header = field<std::uint32_t>(p, at + 4);
        const auto payload = field<std::uint64_t>(p, at + 8);
        if (header == 0) break;
        if (field<std::uint16_t>(p, at) == 2)
            targets.push_back(static_cast<int>(field<std::uint32_t>(p, at + 28)));
        at += header + payload;
    }
    return targets;
}

bool runs_on(const std::vector<int>& targets, int sm) {
    for (const int t : targets) {
        if (t / 10 == sm / 10 && t <= sm) return true;
    }
    return false;
}

void* find_kernel(const char* name) {
    static void* const library = [] {
        Dl_info info;
        ::dladdr(reinterpret_cast<void*>(&find_kernel), &info);
        return ::dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }();
    return ::dlsym(library, name);
}

Report call_kernel(void* function, const std::vector<unsigned char>& arguments, const Shape& shape,
                   const Options& options) {
    const Call c{function, &arguments};
    const std::size_t bytes = arguments.size();
    if (bytes < kLeastArgs || bytes > kMostArgs) {
        Report report;
        report.faults.push_back("a kernel's argument has 17 to 4096 bytes here, not " +
                                std::to_string(bytes));
        return report;
    }
    auto* body = bytes <= 256 ? call<256> : bytes <= 1024 ? call<1024> : call<kMostArgs>;
    return run(shape, body, &c, options);
}

}  // namespace aerogel::emulator
