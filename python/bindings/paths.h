// Paths as Python spells them: bytes that are not UTF-8 become what os.fsencode() turns back.
#pragma once

#include <nanobind/nanobind.h>

#include <filesystem>
#include <string>

namespace aerogel::python {

inline nanobind::str path_text(const std::filesystem::path& path) {
    const std::string& bytes = path.native();
    PyObject* text = PyUnicode_DecodeFSDefaultAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size()));
    if (text == nullptr) throw nanobind::python_error();
    return nanobind::steal<nanobind::str>(text);
}

/// Text for people, which may hold paths.
inline nanobind::str shown_text(const std::string& bytes) {
    PyObject* text =
        PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "backslashreplace");
    if (text == nullptr) throw nanobind::python_error();
    return nanobind::steal<nanobind::str>(text);
}

}  // namespace aerogel::python
