// The extension module aerogel._core: errors, threads, and what the other files here register.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>
#include <string_view>

#include "aerogel/error.h"
#include "aerogel/threads.h"
#include "aerogel/version.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"

namespace nb = nanobind;

namespace {

// Paths in a message may hold bytes that are not UTF-8.
void set_error(PyObject* type, const std::exception& error) {
    const std::string_view what = error.what();
    PyObject* text =
        PyUnicode_DecodeUTF8(what.data(), static_cast<Py_ssize_t>(what.size()), "backslashreplace");
    if (text == nullptr) return;
    PyErr_SetObject(type, text);
    Py_DECREF(text);
}

// The house's errors as Python's: the message is the core's own.
void translate(const std::exception_ptr& pointer, void*) {
    try {
        std::rethrow_exception(pointer);
    } catch (const aerogel::InvalidArgument& error) {
        set_error(PyExc_ValueError, error);
    } catch (const aerogel::Unsupported& error) {
        set_error(PyExc_NotImplementedError, error);
    } catch (const aerogel::IoError& error) {
        set_error(PyExc_OSError, error);
    } catch (const aerogel::Error& error) {
        set_error(PyExc_RuntimeError, error);
    }
}

}  // namespace

NB_MODULE(_core, module) {
    module.doc() = "The C++ core of aerogel; use the package aerogel instead.";
#ifdef NDEBUG
    // A traceback or a cache of torch may hold layers until the interpreter ends.
    nb::set_leak_warnings(false);
#endif
    nb::register_exception_translator(translate);
    module.attr("version") = std::string(aerogel::version());
    module.def(
        "num_threads", [] { return aerogel::python::without_gil(&aerogel::num_threads); },
        "Number of threads that the kernels use: the number set, or fewer (and a RuntimeWarning) where the "
        "system refuses threads.");
    module.def("set_num_threads", &aerogel::set_num_threads, nb::arg("count"),
               "Sets the number of threads of all calls that begin from now on; results do not depend on it. "
               "Raises ValueError below 1.");
    aerogel::python::bind_timestep(module);
    aerogel::python::bind_devices(module);
    aerogel::python::bind_linear(module);
    aerogel::python::bind_files(module);
    aerogel::python::bind_weight_files(module);
    aerogel::python::bind_attention(module);
    aerogel::python::bind_sparse_attention(module);
    aerogel::python::bind_rotated_norm(module);
    aerogel::python::bind_elementwise(module);
    aerogel::python::bind_convolution(module);
    aerogel::python::bind_model_plan(module);
    aerogel::python::bind_export(module);
    aerogel::python::bind_reports(module);
    aerogel::python::bind_outputs(module);
    aerogel::python::bind_tune(module);
}
