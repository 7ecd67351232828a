// What a kernel's code sees of its thread. The functions of primitives.h and language.h are built on this
// file alone.
#pragma once

#include <cstddef>
#include <cstdint>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace aerogel::emulator {

/// The line of a kernel that calls a primitive.
struct Where {
    const char* file;
    int line;
    static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

/// Of the thread that calls, in kernels only. Their values never change inside a thread.
#define AEROGEL_OF_THREAD __attribute__((const, nothrow))
AEROGEL_OF_THREAD dim3 thread_index();
AEROGEL_OF_THREAD dim3 block_index();
AEROGEL_OF_THREAD dim3 block_size();
AEROGEL_OF_THREAD dim3 grid_size();
/// The block's dynamic shared memory.
AEROGEL_OF_THREAD unsigned char* shared_memory();
#undef AEROGEL_OF_THREAD

/// Where shared memory begins in its own address space: not at 0, as on a GPU.
constexpr unsigned kSharedBase = 1024;

/// What a meeting of a warp computes: from in[32] to out[32].
struct Gathered {
    const void* in[32];
    void* out[32];
    unsigned mask;
};
using Operation = void (*)(const Gathered& lanes);

/// All 32 lanes come here; the last one computes for all.
void meet(Operation operation, const void* in, void* out, Where where);

/// Ends the launch with a message.
[[noreturn]] void fault(const char* message, Where where);

/// A load or store of the kernel, by a primitive: looked at like the compiler's own, and must be aligned.
void load(void* to, const void* from, int bytes, Where where);
void store(void* to, const void* from, int bytes, Where where);

/// A read of shared memory by the tensor cores' loads (bank conflicts are counted by them).
void read_shared(const void* from, int bytes, Where where);

}  // namespace aerogel::emulator
