// Memory for outputs of operations that torch keeps. A model makes arrays of the same few sizes in every
// block, and fresh pages of the system can take longer than what is written into them: a block that torch
// frees waits for the next output of its size, lent to the system meanwhile.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "base/fork.h"
#include "base/memory.h"
#include "bindings/bindings.h"
#include "core/reused_memory.h"

namespace aerogel::python {
namespace {

namespace nb = nanobind;

constexpr std::size_t kPage = 4096;

struct WaitingOutputs : WaitingBlocks {
    WaitingOutputs() : WaitingBlocks(usable_memory_bytes() / 8) {}
};

WaitingBlocks& waiting() {
    static PerProcess<WaitingOutputs> blocks;
    return blocks.get();
}

void* allocate(std::size_t size) {
    if (void* reused = waiting().take(size)) return reused;
    void* data = std::aligned_alloc(kPage, size);
    if (data == nullptr) {  // what waits counts where memory is limited, and may be what is missing
        waiting().clear();
        data = std::aligned_alloc(kPage, size);
    }
    if (data == nullptr) throw std::bad_alloc();
    prefer_huge_pages(data, size);
    return data;
}

void release(void* data, std::size_t size) noexcept {
    lend_to_system(data, size);
    if (!waiting().keep(data, size)) std::free(data);
}

/// DLManagedTensor of DLPack, whose owner may let go of it in any thread, without Python's lock.
struct Output {
    nb::dlpack::dltensor tensor;
    void* unused = nullptr;
    void (*deleter)(Output*) = [](Output* self) { delete self; };
    std::vector<std::int64_t> shape;
    std::size_t size = 0;

    ~Output() {
        if (tensor.data != nullptr) release(tensor.data, size);
    }
};

/// A capsule that nobody has taken still has its name.
void free_capsule(PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, "dltensor") != 0)
        delete static_cast<Output*>(PyCapsule_GetPointer(capsule, "dltensor"));
}

nb::object output(std::vector<std::int64_t> shape, bool bfloat16) {
    auto result = std::make_unique<Output>();
    std::size_t bytes = bfloat16 ? 2 : 4;
    for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
    result->shape = std::move(shape);
    result->size = (bytes + kPage - 1) / kPage * kPage;
    const auto code = bfloat16 ? nb::dlpack::dtype_code::Bfloat : nb::dlpack::dtype_code::Float;
    result->tensor = {
        .data = allocate(result->size),
        .device = {nb::device::cpu::value, 0},
        .ndim = static_cast<std::int32_t>(result->shape.size()),
        .dtype = {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bfloat16 ? 16 : 32), 1},
        .shape = result->shape.data()};
    PyObject* capsule = PyCapsule_New(result.get(), "dltensor", &free_capsule);
    if (capsule == nullptr) throw nb::python_error();
    result.release();
    return nb::steal(capsule);
}

}  // namespace

void bind_outputs(nb::module_& module) {
    module.def(
        "output", &output, nb::arg("shape"), nb::arg("bfloat16"),
        "A DLPack capsule of a contiguous array, float32 or bfloat16, that is not initialized. Its memory "
        "is that of an output that is gone, where there is one.");
}

}  // namespace aerogel::python
