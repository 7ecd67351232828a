// Runs CUDA kernels on the CPU: every thread of a block is a fiber, what a warp does together is a meeting of
// its 32 fibers. Finds what a GPU would forgive or hide: races, deadlocks, copies nobody waited for, bank
// conflicts, misaligned and foreign addresses. Kernels see it through src/kernels/cuda/primitives; x86-64
// Linux.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace aerogel::emulator {

struct Size3 {
    unsigned x = 1, y = 1, z = 1;
    unsigned count() const { return x * y * z; }
};

struct Shape {
    Size3 grid, block;
    std::size_t shared_bytes = 0;
};

struct Options {
    std::uint64_t seed = 1;  ///< of the order of blocks, warps and landings
    bool late = true;        ///< asynchronous copies land when they are waited for; false: at once
    bool races = true;       ///< look for races and for reads of shared memory that nobody wrote
    bool foreign_memory =
        true;  ///< global memory may be any of the process; false: allocations only (memory.h)
    std::size_t most_shared_bytes = 227 * 1024;
    int sm = 90;               ///< instructions of later architectures are faults
    unsigned first_block = 0;  ///< those of the grid before it do not run
};

/// What happened. The first fault ends the launch.
struct Report {
    std::vector<std::string> faults;
    std::uint64_t blocks = 0, switches = 0, meetings = 0, barriers = 0, products = 0, copies = 0;
    std::uint64_t matrix_loads = 0, matrix_conflicts = 0;  ///< ldmatrix: extra passes over the banks
    std::uint64_t shared_accesses = 0,
                  shared_conflicts = 0;  ///< ordinary loads and stores of a warp, the same

    bool ok() const { return faults.empty(); }
    std::string text() const;  ///< the faults, a line each
};
inline std::ostream& operator<<(std::ostream& out, const Report& report) {
    return out << report.text();
}

/// Runs body(arguments) in every thread.
Report run(const Shape& shape, void (*body)(const void*), const void* arguments, const Options& options);

/// kernel<<<grid, block, shared>>>(args), waited for.
template <class Args>
Report launch(const Shape& shape, void (*kernel)(Args), const Args& args, const Options& options = {}) {
    struct Call {
        void (*kernel)(Args);
        const Args* args;
    };
    const Call call{kernel, &args};
    return run(
        shape,
        [](const void* p) {
            const auto* c = static_cast<const Call*>(p);
            c->kernel(*c->args);
        },
        &call, options);
}

}  // namespace aerogel::emulator
