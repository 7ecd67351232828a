// What the core takes from the framework whose device tensors it works on: memory.
#include <cstddef>
#include <cstdint>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#ifdef AEROGEL_CUDA
#include "core/cuda_memory.h"
#endif

namespace aerogel::python {
namespace {

#ifdef AEROGEL_CUDA
// Never destroyed: arrays may live as long as the process. Guarded by the interpreter's lock.
struct Functions {
    nb::object lend, take_back;
    bool ended = false;
};
Functions& functions() {
    static auto* const all = new Functions;
    return *all;
}

// What the function raises (torch.OutOfMemoryError) comes out of the call that needed the memory.
void* lend(int device, std::size_t bytes) {
    const nb::gil_scoped_acquire locked;
    return reinterpret_cast<void*>(nb::cast<std::uintptr_t>(functions().lend(device, bytes)));
}

void take_back(void* data) noexcept {
    if (functions().ended || !Py_IsInitialized()) return;
    const nb::gil_scoped_acquire locked;
    const nb::error_scope raised;  // objects also die while an exception is on its way
    try {
        functions().take_back(reinterpret_cast<std::uintptr_t>(data));
    } catch (...) {  // nobody is left to hear of it
    }
}
#endif

// True where the core has kernels for GPUs.
bool borrow_gpu_memory([[maybe_unused]] const nb::object& from, [[maybe_unused]] const nb::object& back) {
#ifdef AEROGEL_CUDA
    functions().lend = from;
    functions().take_back = back;
    functions().ended = false;
    cuda::borrow_memory({lend, take_back});
    return true;
#else
    return false;
#endif
}

}  // namespace

void bind_devices(nb::module_& module) {
    module.def("borrow_gpu_memory", &borrow_gpu_memory, nb::arg("lend"), nb::arg("take_back"),
               "From now on the core's arrays on GPUs lie in memory that lend(index, bytes) gives an address "
               "of, until take_back(address). False where this build has no kernels for GPUs.");
    module.def(
        "end_borrowing",
        [] {
#ifdef AEROGEL_CUDA
            functions().ended = true;
#endif
        },
        "The interpreter ends: take_back is not called any more.");
}

}  // namespace aerogel::python
