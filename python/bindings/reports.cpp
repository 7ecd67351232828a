// What the calls inspect() and compare() of the package stand on.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>

#include <filesystem>
#include <string>

#include "aerogel/error.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "bindings/paths.h"
#include "core/json.h"
#include "model/compare.h"
#include "model/inspect.h"

namespace aerogel::python {
namespace {

// (path, JSON, text of every layer, number of problems)
nb::tuple inspect_path(const std::filesystem::path& path, int rank, bool all) {
    const InspectReport report = without_gil([&] { return inspect(path, {rank, all}); });
    return nb::make_tuple(path_text(report.path), dump_json(report.json), shown_text(report.text),
                          report.problems);
}

nb::dict row(const Comparison& comparison) {
    nb::dict out;
    out["name"] = comparison.name;
    out["psnr"] = comparison.psnr ? nb::cast(*comparison.psnr) : nb::none();
    out["ssim"] = comparison.ssim ? nb::cast(*comparison.ssim) : nb::none();
    out["cosine"] = comparison.distance.cosine;
    out["relative_l1"] = comparison.distance.relative_l1;
    out["relative_l2"] = comparison.distance.relative_l2;
    out["largest"] = comparison.distance.largest;
    return out;
}

nb::list compare_paths(const std::filesystem::path& a, const std::filesystem::path& b) {
    nb::list out;
    for (const Comparison& one : without_gil([&] { return compare_files(a, b); })) out.append(row(one));
    return out;
}

Frames frames_of(const Tensor& tensor) {
    const auto* first = tensor.as<std::uint8_t>();
    return {tensor.dim(0), tensor.dim(1), tensor.dim(2), {first, first + tensor.count()}};
}

bool is_frames(const Tensor& tensor) {
    return tensor.dtype() == DType::u8 && tensor.shape().size() == 4 && tensor.dim(3) == 3 &&
           tensor.count() != 0;
}

nb::dict compare_arrays(const std::string& name, const Array& a, const Array& b) {
    const Tensor x = adopt(a, "a"), y = adopt(b, "b");
    return row(without_gil([&] {
        return is_frames(x) && is_frames(y) ? compare_frames(name, frames_of(x), frames_of(y))
                                            : compare_tensors(name, x, y, true);
    }));
}

}  // namespace

void bind_reports(nb::module_& module) {
    module.def("inspect", &inspect_path, nb::arg("path"), nb::arg("rank"), nb::arg("all"),
               "(path that was read, JSON text, report for people, number of problems).");
    module.def("compare_files", &compare_paths, nb::arg("a"), nb::arg("b"), "One row per pair of tensors.");
    module.def("compare_arrays", &compare_arrays, nb::arg("name"), nb::arg("a"), nb::arg("b"),
               "The row of two contiguous arrays of one shape.");
}

}  // namespace aerogel::python
