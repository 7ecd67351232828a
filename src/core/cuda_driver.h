// The part of NVIDIA's driver that Aerogel calls, declared here and opened when a CUDA device is first used:
// nothing links to CUDA, and one binary serves machines with and without a GPU. AEROGEL_CUDA_DRIVER names
// another library than libcuda.so.1. Names and numbers are those of the "CUDA Driver API" manual.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace aerogel::cuda {

using Result = int;  ///< CUresult; 0 is success
using Address = std::uint64_t;
using DriverContext = struct ContextOfDriver*;  // CUcontext
using Module = struct ModuleOfDriver*;          // CUmodule
using Function = struct FunctionOfDriver*;      // CUfunction
using Stream = struct StreamOfDriver*;          // CUstream: what aerogel::Context::stream points to
using Event = struct EventOfDriver*;            // CUevent

/// The results that the library tells apart.
constexpr Result kSuccess = 0, kOutOfMemory = 2, kUnknown = 999;

/// CUdevice_attribute
enum class DeviceAttribute : int {
    multiprocessors = 16,
    major = 75,
    minor = 76,
    shared_per_multiprocessor = 81,
    shared_per_block_at_most = 97,
};

/// CUfunction_attribute
enum class FunctionAttribute : int {
    shared_bytes = 1,
    local_bytes = 3,
    registers = 4,
    most_dynamic_shared_bytes = 8
};

/// CUtensorMap: a tile of an array for the copies of sm_90 and later. Part of a kernel's arguments.
struct alignas(64) TensorMap {
    std::uint64_t words[16] = {};
};

/// The entry points. All are there once driver() returned, but for those that say null.
struct Driver {
    Result (*init)(unsigned flags);
    Result (*version)(int* version);
    Result (*error_name)(Result result, const char** name);
    Result (*error_string)(Result result, const char** text);
    Result (*device_count)(int* count);
    Result (*device_get)(int* device, int index);
    Result (*device_name)(char* name, int bytes, int device);
    Result (*device_attribute)(int* value, DeviceAttribute attribute, int device);
    Result (*retain_primary_context)(DriverContext* context, int device);
    Result (*current_context)(DriverContext* context);
    Result (*push_context)(DriverContext context);
    Result (*pop_context)(DriverContext* context);
    Result (*synchronize)();  ///< everything that was put on the current context
    Result (*memory_info)(std::size_t* free, std::size_t* all);
    Result (*allocate)(Address* address, std::size_t bytes);
    Result (*free)(Address address);
    Result (*from_host)(Address to, const void* from, std::size_t bytes, Stream stream);
    Result (*to_host)(void* to, Address from, std::size_t bytes, Stream stream);
    Result (*copy)(Address to, Address from, std::size_t bytes, Stream stream);
    Result (*fill_bytes)(Address to, unsigned char value, std::size_t bytes, Stream stream);
    Result (*synchronize_stream)(Stream stream);
    Result (*stream_capture)(Stream stream, int* status);  ///< CUstreamCaptureStatus: 0 where there is none
    Result (*exchange_capture_mode)(int* mode);            ///< CUstreamCaptureMode of the thread
    Result (*create_event)(Event* event, unsigned flags);
    Result (*record_event)(Event event, Stream stream);
    Result (*query_event)(Event event);
    Result (*destroy_event)(Event event);
    Result (*load_module)(Module* module, const void* image);
    Result (*find_function)(Function* function, Module module, const char* name);
    Result (*function_attribute)(int* value, FunctionAttribute attribute, Function function);
    Result (*set_function_attribute)(Function function, FunctionAttribute attribute, int value);
    Result (*launch)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                     unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream,
                     void** parameters, void** extra);
    /// cuTensorMapEncodeTiled; null in drivers before CUDA 12.
    Result (*encode_tiled)(TensorMap* map, int data_type, std::uint32_t rank, void* address,
                           const std::uint64_t* sizes, const std::uint64_t* byte_strides,
                           const std::uint32_t* box, const std::uint32_t* element_strides, int interleave,
                           int swizzle, int promotion, int fill);
};

/// Opened and initialised at the first call. Throws DeviceError where there is no driver ("[device] no CUDA
/// driver: ...") or it lacks an entry point; the next call then tries again.
const Driver& driver();

/// "CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered)".
std::string describe(Result result);

/// Throws DeviceError "[device] WHAT failed: ..." unless the result is a success.
void check(Result result, std::string_view what);

/// What the library asks of a GPU.
struct Properties {
    std::string name;
    int sm = 0;          ///< 10 * major + minor: 80, 86, 89, 90, 100, 120 ...
    int allowed_sm = 0;  ///< the same, held down by AEROGEL_GPU=sm_80
    int multiprocessors = 0;
    int shared_per_block = 0;  ///< bytes of dynamic shared memory that a block may have at most
    int shared_per_multiprocessor = 0;
    DriverContext context = nullptr;  ///< the primary one, which PyTorch uses too
};

/// Throws DeviceError where there is no such GPU, InvalidArgument when AEROGEL_GPU is wrong or asks for more
/// than the GPU is.
const Properties& properties(int index);

/// GPUs of this machine: 0 where driver() throws.
int device_count() noexcept;

/// The context of a GPU is that of the calling thread as long as this lives.
class CurrentDevice {
  public:
    explicit CurrentDevice(int index);
    ~CurrentDevice();
    CurrentDevice(const CurrentDevice&) = delete;
    CurrentDevice& operator=(const CurrentDevice&) = delete;

  private:
    bool pushed_ = false;
};

/// The GPU whose context is the thread's, -1 for none.
int current_device() noexcept;

}  // namespace aerogel::cuda
