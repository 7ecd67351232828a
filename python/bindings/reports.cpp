// What the calls inspect() and compare() of the package stand on.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <string>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "bindings/paths.h"
#include "core/json.h"
#include "model/compare.h"
#include "model/inspect.h"

namespace aerogel::python {
namespace {

void bind_comparisons(nb::module_& module) {
    const auto of = [](double Distance::*member) {
        return [member](const Comparison& row) { return row.distance.*member; };
    };
    nb::class_<Comparison>(module, "Comparison", "How close two arrays are.")
        .def_ro("name", &Comparison::name)
        .def_ro("psnr", &Comparison::psnr)
        .def_ro("ssim", &Comparison::ssim)
        .def_prop_ro("cosine", of(&Distance::cosine))
        .def_prop_ro("relative_l1", of(&Distance::relative_l1))
        .def_prop_ro("relative_l2", of(&Distance::relative_l2))
        .def_prop_ro("largest", of(&Distance::largest));
    module.def(
        "compare_files",
        [](const std::filesystem::path& a, const std::filesystem::path& b) {
            return without_gil([&] { return compare_files(a, b); });
        },
        nb::arg("a"), nb::arg("b"), "One row per pair of tensors.");
    module.def(
        "compare_arrays",
        [](const std::string& name, const Array& a, const Array& b) {
            const Tensor x = adopt(a, "a"), y = adopt(b, "b");
            return without_gil([&] { return compare_arrays(name, x, y); });
        },
        nb::arg("name"), nb::arg("a"), nb::arg("b"), "The row of two contiguous arrays of one shape.");
}

}  // namespace

void bind_reports(nb::module_& module) {
    nb::class_<InspectReport>(module, "InspectReport", "What files hold.")
        .def_prop_ro("path", [](const InspectReport& report) { return path_text(report.path); })
        .def_prop_ro("json", [](const InspectReport& report) { return dump_json(report.json); })
        .def_prop_ro(
            "text", [](const InspectReport& report) { return shown_text(report.text); }, "For people.")
        .def_ro("problems", &InspectReport::problems, "How many there are.");
    module.def(
        "inspect",
        [](const std::filesystem::path& path, int rank, bool all) {
            return without_gil([&] { return inspect(path, {rank, all}); });
        },
        nb::arg("path"), nb::arg("rank"), nb::arg("all"));
    bind_comparisons(module);
}

}  // namespace aerogel::python
