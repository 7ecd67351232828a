// Launching a CUDA kernel. Everything a row of this folder needs from the host:
//
//   extern const Image kW8a8Image;  // made by aerogel_cuda_kernel(w8a8 ...) of kernels.cmake, one per
//   NAME.cu const Kernel kQuantize{kW8a8Image, "aerogel_quantize_bf16"};        // a __global__ function of
//   NAME.cu launch(kQuantize, {.blocks = {rows}, .threads = {256}, .shared_bytes = 0}, args.stream,
//   QuantizeArgs{...});
//
// run() of a row is called with its device current on the calling thread; it launches on args.stream and
// returns. It allocates nothing and waits for nothing. Launches after a failure do nothing; the operation
// throws the first failure once run() is back. A call can be captured in a CUDA graph (docs/cuda.md) once
// each of its kernels has run, as the first launch loads machine code.
//
// pack() and find scales on the host: PackedLinear gives pack() host memory for the weight and for `packed`,
// and brings the packed bytes to the device once (ops/linear.cpp). run() gets them as device memory, 256-byte
// aligned. All other pointers of LinearArgs, AttentionCall and so on are device memory, BlockMask rows and
// token orders too (`order` is then an array of device pointers in device memory).
#pragma once

#include <cstddef>
#include <type_traits>

#include "core/cuda_driver.h"

namespace aerogel::cuda {

/// Machine code of one NAME.cu for all its targets: a fat binary, of which the driver takes what fits.
struct Image {
    const char* name;
    const unsigned char* data;
    const unsigned char* end;
};

/// Sizes along x, y and z.
struct Dim {
    unsigned x = 1, y = 1, z = 1;
};

struct Grid {
    Dim blocks, threads;
    std::size_t shared_bytes = 0;  ///< dynamic, up to Properties::shared_per_block
};

/// One __global__ function with one argument, a struct. A constant that lives as long as the process.
struct Kernel {
    const Image& image;
    const char* symbol;
};

/// Puts the kernel on the stream of the current device. False where it failed, or an earlier launch of the
/// operation did. Grids without a block are not launched.
bool launch(const Kernel& kernel, const Grid& grid, void* stream, const void* args,
            std::size_t args_bytes) noexcept;

template <typename Args>
bool launch(const Kernel& kernel, const Grid& grid, void* stream, const Args& args) noexcept {
    static_assert(std::is_trivially_copyable_v<Args> && !std::is_pointer_v<Args>);
    return launch(kernel, grid, stream, &args, sizeof(args));
}

/// Zero bytes, on the stream; failures as in launch().
bool clear_bytes(void* data, std::size_t bytes, void* stream) noexcept;

/// Of the current device. Only in run(), workspace_bytes() and what they call.
const Properties& here() noexcept;

/// What the driver says of a kernel on the current device. Throws DeviceError; for tests and reports.
struct KernelFacts {
    int registers = 0, shared_bytes = 0, local_bytes = 0;
};
KernelFacts facts_of(const Kernel& kernel);

}  // namespace aerogel::cuda
