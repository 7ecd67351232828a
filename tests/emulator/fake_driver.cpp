// CUDA's driver for machines without a GPU: the entry points that Aerogel opens (src/core/cuda_driver.h),
// with the kernels of src/kernels/cuda run by the emulator. AEROGEL_CUDA_DRIVER names this library. Its GPUs
// are described by
//   AEROGEL_FAKE_SM      80 (default), 86, 89, 90, 100, 120
//   AEROGEL_FAKE_GPUS    how many, default 1
//   AEROGEL_FAKE_VERSION CUDA's of the driver, default 13000 (13.0)
//   AEROGEL_FAKE_MEMORY  MiB of each, default 1024
// and at every launch
//   AEROGEL_FAKE_SEED    order of blocks and warps; default: another at each launch
//   AEROGEL_FAKE_COPIES  late or early; default: drawn at each launch
//   AEROGEL_FAKE_REPORT  a file that gets a line for every launch: name, sizes, products, bank conflicts
// What a kernel does wrong is printed and becomes CUDA_ERROR_LAUNCH_FAILED, after which every call fails, as
// on a GPU.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "core/cuda_driver.h"
#include "emulator/block.h"
#include "emulator/fake_memory.h"
#include "emulator/fake_modules.h"
#include "emulator/fake_streams.h"
#include "emulator/tensor_map.h"

namespace aerogel::emulator {

namespace {

using cuda::Address;
using cuda::Result;

constexpr Result kInvalidValue = 1, kOutOfMemory = 2, kNotInitialized = 3, kInvalidDevice = 101,
                 kInvalidImage = 200, kInvalidContext = 201, kNoBinary = 209, kInvalidHandle = 400,
                 kNotFound = 500, kNotReady = 600, kIllegalAddress = 700, kLaunchFailed = 719,
                 kCaptureUnsupported = 900;

struct ErrorText {
    Result result;
    const char *name, *text;
};
constexpr ErrorText kErrors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {kNoBinary, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
};

long setting(const char* name, long otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr || *text == '\0' ? otherwise : std::strtol(text, nullptr, 10);
}

struct FakeModule;
struct FakeFunction {
    std::string name;
    void* code = nullptr;
    int shared_allowed = 48 * 1024;
};
struct FakeModule {
    std::map<std::string, std::unique_ptr<FakeFunction>> functions;
};

/// A GPU and its primary context.
struct Gpu {
    explicit Gpu(std::size_t bytes) : memory(bytes) {}
    FakeMemory memory;
    FakeStreams streams{1};
    Result failure = 0;
    std::set<FakeModule*> modules;
};

struct Machine {
    std::mutex guard;
    int sm = 80;
    bool initialized = false;
    std::vector<std::unique_ptr<Gpu>> gpus;
    std::set<FakeEvent*> events;
    std::map<FakeEvent*, Gpu*> owners;
};

Machine& machine() {
    static auto* m = new Machine;  // a process may end while work waits
    return *m;
}

std::vector<Gpu*>& contexts() {
    static thread_local auto* stack = new std::vector<Gpu*>;  // memory is freed after a thread's objects
    return *stack;
}

std::size_t most_shared(int sm) {
    const int kib = sm == 80 ? 163 : sm == 90 || sm / 10 == 10 ? 227 : 99;
    return static_cast<std::size_t>(kib) * 1024;
}

constexpr int kRelaxed = 2;
thread_local int capture_mode = 0;  // CUstreamCaptureMode

/// What every call begins with: the machine to oneself, a context, and no failure before.
class Entered {
  public:
    Entered() : lock_(machine().guard) {
        if (!machine().initialized) {
            result = kNotInitialized;
        } else if (contexts().empty() || contexts().back() == nullptr) {
            result = kInvalidContext;
        } else {
            gpu = contexts().back();
            result = gpu->failure;
        }
    }
    explicit operator bool() const { return result == 0; }
    /// Calls that wait or allocate would end a capture on a GPU.
    bool captured() {
        if (result == 0 && gpu->streams.capturing()) result = kCaptureUnsupported;
        return result != 0;
    }
    /// A failure of work stays.
    Result keep(Result r) const {
        if (r != 0) gpu->failure = r;
        return r;
    }
    FakeStream* stream(cuda::Stream handle) const { return gpu->streams.find(handle); }

    Gpu* gpu = nullptr;
    Result result = 0;

  private:
    std::lock_guard<std::mutex> lock_;
};

enum class Direction { to_gpu, to_host, inside };

Result transfer(void* to, const void* from, std::size_t bytes, cuda::Stream handle, Direction direction) {
    const Entered in;
    if (!in) return in.result;
    FakeStream* stream = in.stream(handle);
    if (stream == nullptr) return kInvalidHandle;
    Gpu* gpu = in.gpu;
    if (bytes == 0) return 0;
    if (direction != Direction::to_host && !gpu->memory.contains(to, bytes)) return kInvalidValue;
    if (direction != Direction::to_gpu && !gpu->memory.contains(from, bytes)) return kInvalidValue;
    // The host's memory is not pinned: it is read before the call returns.
    std::shared_ptr<std::vector<std::byte>> staged;
    if (direction == Direction::to_gpu) {
        const auto* first = static_cast<const std::byte*>(from);
        staged = std::make_shared<std::vector<std::byte>>(first, first + bytes);
    }
    return gpu->streams.put(*stream, [=] {
        const bool reads = direction != Direction::to_gpu, writes = direction != Direction::to_host;
        const FakeMemory::OpenPart source(gpu->memory, from, reads ? bytes : 0),
            target(gpu->memory, to, writes ? bytes : 0);
        std::memcpy(to, staged ? staged->data() : from, bytes);
        return 0;
    });
}

void write_report(const std::string& name, const Shape& s, const Report& r) {
    const char* path = std::getenv("AEROGEL_FAKE_REPORT");
    if (path == nullptr) return;
    if (FILE* f = std::fopen(path, "a")) {
        std::fprintf(
            f,
            "%s grid %u %u %u block %u %u %u shared %zu products %lu matrix_loads %lu matrix_conflicts %lu "
            "shared_accesses %lu shared_conflicts %lu\n",
            name.c_str(), s.grid.x, s.grid.y, s.grid.z, s.block.x, s.block.y, s.block.z, s.shared_bytes,
            r.products, r.matrix_loads, r.matrix_conflicts, r.shared_accesses, r.shared_conflicts);
        std::fclose(f);
    }
}

struct Launch {
    FakeFunction* function;
    Shape shape;
    std::vector<unsigned char> arguments;
};

Result execute(Gpu& gpu, const Launch& l) {
    static long launches = 0;  // of the process, the machine's lock is held
    Options options;
    options.seed = static_cast<std::uint64_t>(setting("AEROGEL_FAKE_SEED", ++launches));
    const char* copies = std::getenv("AEROGEL_FAKE_COPIES");
    options.late = copies != nullptr ? std::strcmp(copies, "early") != 0 : Random{options.seed}() % 2 != 0;
    options.foreign_memory = false;
    options.most_shared_bytes = most_shared(machine().sm);
    options.sm = machine().sm;
    const FakeMemory::Open open(gpu.memory);
    const Report report = call_kernel(l.function->code, l.arguments, l.shape, options);
    write_report(l.function->name, l.shape, report);
    if (report.ok()) return 0;
    std::fprintf(stderr, "fake GPU: %s, seed %lu, copies %s: %s", l.function->name.c_str(), options.seed,
                 options.late ? "late" : "early", report.text().c_str());
    return kLaunchFailed;
}

/// The arguments as one piece of memory of known size.
bool read_extra(void** extra, std::vector<unsigned char>& arguments) {
    const unsigned char* data = nullptr;
    std::size_t bytes = 0;
    for (; extra != nullptr && *extra != nullptr; extra += 2) {
        if (*extra == reinterpret_cast<void*>(1)) data = static_cast<const unsigned char*>(extra[1]);
        if (*extra == reinterpret_cast<void*>(2)) bytes = *static_cast<const std::size_t*>(extra[1]);
    }
    if (data == nullptr || bytes > kMostArgs) return false;
    arguments.assign(data, data + bytes);
    return true;
}

}  // namespace

#define AEROGEL_ENTRY extern "C" __attribute__((visibility("default"))) Result

// --- devices and contexts ---
AEROGEL_ENTRY cuInit(unsigned flags) {
    Machine& m = machine();
    const std::lock_guard lock(m.guard);
    if (flags != 0) return kInvalidValue;
    if (m.initialized) return 0;
    m.sm = static_cast<int>(setting("AEROGEL_FAKE_SM", 80));
    const long gpus = setting("AEROGEL_FAKE_GPUS", 1);
    if (gpus == 0) return 100;  // CUDA_ERROR_NO_DEVICE
    for (long i = 0; i < gpus; ++i) {
        m.gpus.push_back(
            std::make_unique<Gpu>(static_cast<std::size_t>(setting("AEROGEL_FAKE_MEMORY", 1024)) << 20));
    }
    m.initialized = true;
    return 0;
}
AEROGEL_ENTRY cuDriverGetVersion(int* version) {
    *version = static_cast<int>(setting("AEROGEL_FAKE_VERSION", 13000));
    return 0;
}
AEROGEL_ENTRY cuGetErrorName(Result result, const char** name) {
    for (const ErrorText& e : kErrors) {
        if (e.result == result) {
            *name = e.name;
            return 0;
        }
    }
    return kInvalidValue;
}
AEROGEL_ENTRY cuGetErrorString(Result result, const char** text) {
    for (const ErrorText& e : kErrors) {
        if (e.result == result) {
            *text = e.text;
            return 0;
        }
    }
    return kInvalidValue;
}
AEROGEL_ENTRY cuDeviceGetCount(int* count) {
    *count = static_cast<int>(machine().gpus.size());
    return machine().initialized ? 0 : kNotInitialized;
}
AEROGEL_ENTRY cuDeviceGet(int* device, int index) {
    if (index < 0 || static_cast<std::size_t>(index) >= machine().gpus.size()) return kInvalidDevice;
    *device = index;
    return 0;
}
AEROGEL_ENTRY cuDeviceGetName(char* name, int bytes, int) {
    std::snprintf(name, static_cast<std::size_t>(bytes), "emulated sm_%d", machine().sm);
    return 0;
}
AEROGEL_ENTRY cuDeviceGetAttribute(int* value, cuda::DeviceAttribute attribute, int device) {
    if (device < 0 || static_cast<std::size_t>(device) >= machine().gpus.size()) return kInvalidDevice;
    const int sm = machine().sm;
    switch (static_cast<int>(attribute)) {
        case 1:
            *value = 1024;
            break;  // threads of a block
        case 8:
            *value = 48 * 1024;
            break;
        case 10:
            *value = 32;
            break;  // warp
        case 16:
            *value = 4;
            break;  // multiprocessors: few, so that persistent kernels loop
        case 75:
            *value = sm / 10;
            break;
        case 76:
            *value = sm % 10;
            break;
        case 81:
            *value = static_cast<int>(most_shared(sm)) + 1024;
            break;
        case 97:
            *value = static_cast<int>(most_shared(sm));
            break;
        default:
            return kInvalidValue;
    }
    return 0;
}
AEROGEL_ENTRY cuDevicePrimaryCtxRetain(cuda::DriverContext* context, int device) {
    if (device < 0 || static_cast<std::size_t>(device) >= machine().gpus.size()) return kInvalidDevice;
    *context = reinterpret_cast<cuda::DriverContext>(machine().gpus[static_cast<std::size_t>(device)].get());
    return 0;
}
AEROGEL_ENTRY cuCtxGetCurrent(cuda::DriverContext* context) {
    *context = reinterpret_cast<cuda::DriverContext>(contexts().empty() ? nullptr : contexts().back());
    return 0;
}
AEROGEL_ENTRY cuCtxPushCurrent_v2(cuda::DriverContext context) {
    contexts().push_back(reinterpret_cast<Gpu*>(context));
    return 0;
}
AEROGEL_ENTRY cuCtxPopCurrent_v2(cuda::DriverContext* context) {
    if (contexts().empty()) return kInvalidContext;
    if (context != nullptr) *context = reinterpret_cast<cuda::DriverContext>(contexts().back());
    contexts().pop_back();
    return 0;
}
AEROGEL_ENTRY cuCtxSetCurrent(cuda::DriverContext context) {
    if (contexts().empty()) contexts().push_back(nullptr);
    contexts().back() = reinterpret_cast<Gpu*>(context);
    return 0;
}
AEROGEL_ENTRY cuCtxSynchronize() {
    Entered in;
    return in.captured() ? in.result : in.keep(in.gpu->streams.finish_all());
}

// --- memory ---
AEROGEL_ENTRY cuThreadExchangeStreamCaptureMode(int* mode) {
    std::swap(*mode, capture_mode);
    return 0;
}
AEROGEL_ENTRY cuMemGetInfo_v2(std::size_t* free, std::size_t* all) {
    Entered in;
    if (in.result != 0) return in.result;
    *all = static_cast<std::size_t>(setting("AEROGEL_FAKE_MEMORY", 1024)) << 20;
    *free = *all - in.gpu->memory.used();
    return 0;
}
AEROGEL_ENTRY cuMemAlloc_v2(Address* address, std::size_t bytes) {
    Entered in;
    if (capture_mode != kRelaxed && in.captured()) return in.result;
    if (!in) return in.result;
    if (bytes == 0) return kInvalidValue;
    *address = reinterpret_cast<Address>(in.gpu->memory.allocate(bytes));
    return *address != 0 ? 0 : kOutOfMemory;
}
AEROGEL_ENTRY cuMemFree_v2(Address address) {
    Entered in;
    if (in.captured()) return in.result;
    if (const Result result = in.keep(in.gpu->streams.finish_all()); result != 0) return result;
    return address == 0 || in.gpu->memory.free(reinterpret_cast<void*>(address)) ? 0 : kInvalidValue;
}
AEROGEL_ENTRY cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t bytes, cuda::Stream stream) {
    return transfer(reinterpret_cast<void*>(to), from, bytes, stream, Direction::to_gpu);
}
AEROGEL_ENTRY cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t bytes, cuda::Stream stream) {
    return transfer(to, reinterpret_cast<const void*>(from), bytes, stream, Direction::to_host);
}
AEROGEL_ENTRY cuMemcpyDtoDAsync_v2(Address to, Address from, std::size_t bytes, cuda::Stream stream) {
    return transfer(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes, stream,
                    Direction::inside);
}
AEROGEL_ENTRY cuMemsetD8Async(Address to, unsigned char value, std::size_t bytes, cuda::Stream handle) {
    const Entered in;
    if (!in) return in.result;
    FakeStream* stream = in.stream(handle);
    if (stream == nullptr) return kInvalidHandle;
    auto* p = reinterpret_cast<void*>(to);
    Gpu* gpu = in.gpu;
    if (!gpu->memory.contains(p, bytes)) return kInvalidValue;
    return gpu->streams.put(*stream, [=] {
        const FakeMemory::OpenPart open(gpu->memory, p, bytes);
        std::memset(p, value, bytes);
        return 0;
    });
}

// --- streams and events ---
AEROGEL_ENTRY cuStreamCreate(cuda::Stream* stream, unsigned flags) {
    const Entered in;
    if (!in) return in.result;
    *stream = static_cast<cuda::Stream>(in.gpu->streams.create((flags & 1) == 0));
    return 0;
}
AEROGEL_ENTRY cuStreamDestroy_v2(cuda::Stream stream) {
    const Entered in;
    if (!in) return in.result;
    return in.gpu->streams.destroy(stream) ? 0 : kInvalidHandle;
}
AEROGEL_ENTRY cuStreamSynchronize(cuda::Stream handle) {
    Entered in;
    if (in.captured()) return in.result;
    FakeStream* stream = in.stream(handle);
    return stream == nullptr ? kInvalidHandle : in.keep(in.gpu->streams.finish(*stream));
}
AEROGEL_ENTRY cuStreamWaitEvent(cuda::Stream handle, cuda::Event event, unsigned) {
    const Entered in;
    if (!in) return in.result;
    auto* e = reinterpret_cast<FakeEvent*>(event);
    FakeStream* stream = in.stream(handle);
    if (stream == nullptr || machine().events.count(e) == 0) return kInvalidHandle;
    return in.gpu->streams.wait_for(*stream, *e);
}
AEROGEL_ENTRY cuEventCreate(cuda::Event* event, unsigned) {
    const Entered in;
    if (!in) return in.result;
    auto* e = new FakeEvent;
    machine().events.insert(e);
    machine().owners[e] = in.gpu;
    *event = reinterpret_cast<cuda::Event>(e);
    return 0;
}
AEROGEL_ENTRY cuEventRecord(cuda::Event event, cuda::Stream handle) {
    const Entered in;
    if (!in) return in.result;
    auto* e = reinterpret_cast<FakeEvent*>(event);
    FakeStream* stream = in.stream(handle);
    if (stream == nullptr || machine().events.count(e) == 0) return kInvalidHandle;
    return in.gpu->streams.record(*stream, *e);
}
AEROGEL_ENTRY cuEventQuery(cuda::Event event) {
    Entered in;
    if (in.captured()) return in.result;
    auto* e = reinterpret_cast<FakeEvent*>(event);
    if (machine().events.count(e) == 0) return kInvalidHandle;
    if (e->done == e->recorded) return 0;
    // Time passes: asked often enough, it has happened.
    const Result result = in.keep(machine().owners[e]->streams.advance());
    return result != 0 ? result : kNotReady;
}
AEROGEL_ENTRY cuEventSynchronize(cuda::Event event) {
    Entered in;
    if (in.captured()) return in.result;
    auto* e = reinterpret_cast<FakeEvent*>(event);
    if (machine().events.count(e) == 0) return kInvalidHandle;
    return in.keep(machine().owners[e]->streams.finish(*e));
}
AEROGEL_ENTRY cuEventDestroy_v2(cuda::Event event) {
    Entered in;
    if (!in) return in.result;
    auto* e = reinterpret_cast<FakeEvent*>(event);
    if (machine().events.erase(e) == 0) return kInvalidHandle;
    const Result result = in.keep(machine().owners[e]->streams.finish(*e));
    machine().owners.erase(e);
    delete e;
    return result;
}

// --- graphs ---
AEROGEL_ENTRY cuStreamBeginCapture_v2(cuda::Stream handle, int) {
    const Entered in;
    if (!in) return in.result;
    FakeStream* stream = in.stream(handle);
    if (handle == nullptr || stream == nullptr || stream->capture != nullptr) return kInvalidHandle;
    stream->capture = std::make_unique<FakeGraph>();
    return 0;
}
AEROGEL_ENTRY cuStreamIsCapturing(cuda::Stream handle, int* status) {
    const Entered in;
    if (!in) return in.result;
    FakeStream* stream = in.stream(handle);
    if (stream == nullptr) return kInvalidHandle;
    *status = stream->capture != nullptr ? 1 : 0;
    return 0;
}
AEROGEL_ENTRY cuStreamEndCapture(cuda::Stream handle, FakeGraph** graph) {
    const Entered in;
    if (!in) return in.result;
    FakeStream* stream = in.stream(handle);
    if (stream == nullptr || stream->capture == nullptr) return kInvalidHandle;
    *graph = stream->capture.release();
    return 0;
}
AEROGEL_ENTRY cuGraphInstantiateWithFlags(FakeGraph** executable, FakeGraph* graph, unsigned long long) {
    *executable = new FakeGraph(*graph);
    return 0;
}
AEROGEL_ENTRY cuGraphLaunch(FakeGraph* executable, cuda::Stream handle) {
    const Entered in;
    if (!in) return in.result;
    FakeStream* stream = in.stream(handle);
    if (stream == nullptr) return kInvalidHandle;
    for (const Work& work : executable->work) in.gpu->streams.put(*stream, work);
    return 0;
}
AEROGEL_ENTRY cuGraphDestroy(FakeGraph* graph) {
    delete graph;
    return 0;
}
AEROGEL_ENTRY cuGraphExecDestroy(FakeGraph* executable) {
    delete executable;
    return 0;
}

// --- kernels ---
AEROGEL_ENTRY cuModuleLoadData(cuda::Module* module, const void* image) {
    const Entered in;
    if (!in) return in.result;
    const std::vector<int> targets = targets_of(image);
    if (targets.empty()) return kInvalidImage;
    if (!runs_on(targets, machine().sm)) return kNoBinary;
    auto* m = new FakeModule;
    in.gpu->modules.insert(m);
    *module = reinterpret_cast<cuda::Module>(m);
    return 0;
}
AEROGEL_ENTRY cuModuleGetFunction(cuda::Function* function, cuda::Module module, const char* name) {
    const Entered in;
    if (!in) return in.result;
    auto* m = reinterpret_cast<FakeModule*>(module);
    if (in.gpu->modules.count(m) == 0) return kInvalidHandle;
    auto& f = m->functions[name];
    if (f == nullptr) f = std::make_unique<FakeFunction>(FakeFunction{name, find_kernel(name)});
    if (f->code == nullptr) {
        std::fprintf(stderr, "fake GPU: no kernel %s in the driver's library\n", name);
        return kNotFound;
    }
    *function = reinterpret_cast<cuda::Function>(f.get());
    return 0;
}
AEROGEL_ENTRY cuFuncGetAttribute(int* value, cuda::FunctionAttribute attribute, cuda::Function function) {
    *value = attribute == cuda::FunctionAttribute::most_dynamic_shared_bytes
                 ? reinterpret_cast<FakeFunction*>(function)->shared_allowed
                 : 0;
    return 0;
}
AEROGEL_ENTRY cuFuncSetAttribute(cuda::Function function, cuda::FunctionAttribute attribute, int value) {
    if (attribute != cuda::FunctionAttribute::most_dynamic_shared_bytes) return kInvalidValue;
    if (value < 0 || static_cast<std::size_t>(value) > most_shared(machine().sm)) return kInvalidValue;
    reinterpret_cast<FakeFunction*>(function)->shared_allowed = value;
    return 0;
}
AEROGEL_ENTRY cuLaunchKernel(cuda::Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                             unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                             cuda::Stream handle, void** parameters, void** extra) {
    const Entered in;
    if (!in) return in.result;
    FakeStream* stream = in.stream(handle);
    auto* f = reinterpret_cast<FakeFunction*>(function);
    if (f == nullptr || stream == nullptr) return kInvalidHandle;
    Launch l{f, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes}, {}};
    const std::uint64_t threads = std::uint64_t{block_x} * block_y * block_z;
    if (grid_x == 0 || grid_y == 0 || grid_z == 0 || threads == 0 || threads > 1024) return kInvalidValue;
    if (grid_y > 65535 || grid_z > 65535 || block_z > 64) return kInvalidValue;
    if (shared_bytes > static_cast<unsigned>(f->shared_allowed)) return kInvalidValue;
    if (parameters != nullptr || !read_extra(extra, l.arguments)) return kInvalidValue;
    Gpu* gpu = in.gpu;
    return gpu->streams.put(*stream, [gpu, l = std::move(l)] { return execute(*gpu, l); });
}

AEROGEL_ENTRY cuTensorMapEncodeTiled(cuda::TensorMap* map, int data_type, std::uint32_t rank, void* address,
                                     const std::uint64_t* sizes, const std::uint64_t* byte_strides,
                                     const std::uint32_t* box, const std::uint32_t* element_strides,
                                     int interleave, int swizzle, int promotion, int fill) {
    const char* reason = encode_tiled(map, {data_type, rank, address, sizes, byte_strides, box,
                                            element_strides, interleave, swizzle, promotion, fill});
    if (reason == nullptr) return 0;
    std::fprintf(stderr, "fake GPU: cuTensorMapEncodeTiled: %s\n", reason);
    return kInvalidValue;
}

}  // namespace aerogel::emulator
