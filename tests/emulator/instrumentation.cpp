// The functions that code compiled with -fsanitize=thread calls, in place of that sanitizer's library, which
// is not linked. The names and signatures are the compiler's.
#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <string>

#include "emulator/accesses.h"
#include "emulator/block.h"

#pragma GCC diagnostic ignored "-Wmissing-declarations"

namespace {

/// Most accesses are those of a thread to its own stack.
inline void look(void* p, int bytes, bool writes, const void* instruction) {
    using namespace aerogel::emulator;
    if (running == nullptr || on_stack(*running, static_cast<const unsigned char*>(p))) return;
    instrumented(p, bytes, writes, instruction);
}

}  // namespace

#define AEROGEL_TSAN(bytes)                                 \
    void __tsan_read##bytes(void* p) {                      \
        look(p, bytes, false, __builtin_return_address(0)); \
    }                                                       \
    void __tsan_write##bytes(void* p) {                     \
        look(p, bytes, true, __builtin_return_address(0));  \
    }                                                       \
    void __tsan_unaligned_read##bytes(void* p) {            \
        look(p, bytes, false, __builtin_return_address(0)); \
    }                                                       \
    void __tsan_unaligned_write##bytes(void* p) {           \
        look(p, bytes, true, __builtin_return_address(0));  \
    }                                                       \
    void __tsan_volatile_read##bytes(void* p) {             \
        look(p, bytes, false, __builtin_return_address(0)); \
    }                                                       \
    void __tsan_volatile_write##bytes(void* p) {            \
        look(p, bytes, true, __builtin_return_address(0));  \
    }

extern "C" {
AEROGEL_TSAN(1)
AEROGEL_TSAN(2)
AEROGEL_TSAN(4)
AEROGEL_TSAN(8)
AEROGEL_TSAN(16)
void __tsan_read_range(void* p, unsigned long n) {
    look(p, static_cast<int>(n), false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, unsigned long n) {
    look(p, static_cast<int>(n), true, __builtin_return_address(0));
}
void __tsan_init() {}
}

namespace aerogel::emulator {

std::string line_of(const void* instruction) {
    Dl_info info;
    if (::dladdr(instruction, &info) == 0) return "?";
    // The call itself lies before the address it returns to.
    const auto offset = static_cast<const char*>(instruction) - 1 - static_cast<const char*>(info.dli_fbase);
    std::array<char, 256> text{};
    std::snprintf(text.data(), text.size(), "0x%tx", offset);
    const std::string address = text.data();
    const std::string command =
        "addr2line -s -e '" + std::string(info.dli_fname) + "' " + address + " 2>/dev/null";
    std::string line;
    if (FILE* pipe = ::popen(command.c_str(), "r")) {
        if (std::fgets(text.data(), text.size(), pipe) != nullptr) line = text.data();
        ::pclose(pipe);
    }
    line = line.substr(0, line.find_first_of("\n "));
    if (!line.empty() && line[0] != '?') return line;
    return std::string(info.dli_sname != nullptr ? info.dli_sname : "?") + "+" + address;
}

}  // namespace aerogel::emulator
