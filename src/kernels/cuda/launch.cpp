// Machine code is loaded once per device, functions are looked up once, launches go to the driver.
#include "kernels/cuda/launch.h"

#include <map>
#include <mutex>
#include <new>
#include <unordered_map>

#include "aerogel/error.h"
#include "base/failure.h"
#include "base/fork.h"
#include "core/cuda_memory.h"

namespace aerogel::cuda {
namespace {

constexpr Result kInvalidContext = 201;
// Of cuLaunchKernel's `extra`: the arguments as one piece of memory of known size.
const auto kBuffer = reinterpret_cast<void*>(1), kBufferBytes = reinterpret_cast<void*>(2);

struct Code {
    std::mutex guard;
    std::map<const Image*, Module> modules;
    std::unordered_map<const Kernel*, Function> functions;
};

struct Codes {
    std::mutex guard;
    std::map<int, Code> of_device;
};
PerProcess<Codes> codes;

Code& code_of(int device) {
    Codes& all = codes.get();
    const std::lock_guard lock(all.guard);
    return all.of_device[device];
}

// Dynamic shared memory above 48 KiB is given only to functions that were allowed it.
Result allow_shared_memory(Function function, int device) {
    int fixed = 0;
    if (const Result result = driver().function_attribute(&fixed, FunctionAttribute::shared_bytes, function);
        result != kSuccess)
        return result;
    return driver().set_function_attribute(function, FunctionAttribute::most_dynamic_shared_bytes,
                                           properties(device).shared_per_block - fixed);
}

Result find(const Kernel& kernel, int device, Function& function) {
    Code& code = code_of(device);
    const std::lock_guard lock(code.guard);
    if (const auto at = code.functions.find(&kernel); at != code.functions.end()) {
        function = at->second;
        return kSuccess;
    }
    Module& module = code.modules[&kernel.image];
    if (module == nullptr) {
        if (const Result result = driver().load_module(&module, kernel.image.data); result != kSuccess)
            return result;
    }
    if (const Result result = driver().find_function(&function, module, kernel.symbol); result != kSuccess)
        return result;
    if (const Result result = allow_shared_memory(function, device); result != kSuccess) return result;
    code.functions[&kernel] = function;
    return kSuccess;
}

bool fail(Result result, const char* what) noexcept {
    note_failure({result, what});
    return false;
}

Result put(const Kernel& kernel, const Grid& grid, void* stream, const void* args, std::size_t bytes) {
    const int device = current_device();
    if (device < 0) return kInvalidContext;
    Function function = nullptr;
    if (const Result result = find(kernel, device, function); result != kSuccess) return result;
    note_stream(device, stream);
    void* extra[] = {kBuffer, const_cast<void*>(args), kBufferBytes, &bytes, nullptr};
    const auto [bx, by, bz] = grid.blocks;
    const auto [tx, ty, tz] = grid.threads;
    return driver().launch(function, bx, by, bz, tx, ty, tz, static_cast<unsigned>(grid.shared_bytes),
                           static_cast<Stream>(stream), nullptr, extra);
}

}  // namespace

bool launch(const Kernel& kernel, const Grid& grid, void* stream, const void* args,
            std::size_t args_bytes) noexcept {
    if (failed()) return false;
    if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return true;
    try {
        if (const Result result = put(kernel, grid, stream, args, args_bytes); result != kSuccess)
            return fail(result, kernel.symbol);
        return true;
    } catch (const std::bad_alloc&) {  // no memory for the tables
        return fail(kOutOfMemory, kernel.symbol);
    } catch (...) {
        return fail(kUnknown, kernel.symbol);
    }
}

bool clear_bytes(void* data, std::size_t bytes, void* stream) noexcept {
    if (failed()) return false;
    if (bytes == 0) return true;
    note_stream(current_device(), stream);
    const Result result =
        driver().fill_bytes(reinterpret_cast<Address>(data), 0, bytes, static_cast<Stream>(stream));
    return result == kSuccess || fail(result, "cuMemsetD8Async");
}

const Properties& here() noexcept {
    return properties(current_device());
}

KernelFacts facts_of(const Kernel& kernel) {
    Function function = nullptr;
    check(find(kernel, current_device(), function), kernel.symbol);
    KernelFacts facts;
    check(driver().function_attribute(&facts.registers, FunctionAttribute::registers, function),
          kernel.symbol);
    check(driver().function_attribute(&facts.shared_bytes, FunctionAttribute::shared_bytes, function),
          kernel.symbol);
    check(driver().function_attribute(&facts.local_bytes, FunctionAttribute::local_bytes, function),
          kernel.symbol);
    return facts;
}

}  // namespace aerogel::cuda
