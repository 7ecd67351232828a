// Calibration statistics and the streaming exporter.
#include "quant/export.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "bindings/paths.h"
#include "model/single_files.h"
#include "quant/algorithms/hadamard.h"
#include "quant/calibration.h"

namespace aerogel::python {
namespace {

// The float model: a checkpoint on disk, or tensors of a model in memory.
ModelWeights open_checkpoint(const std::filesystem::path& path, int rank) {
    return open_model_weights("export", path, rank);
}

ModelWeights wrap_tensors(const std::string& name, const nb::dict& arrays) {
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (const auto& [key, value] : arrays) {
        auto tensor_name = nb::cast<std::string>(key);
        Tensor tensor = adopt(nb::cast<Array>(value), tensor_name.c_str());
        tensors.emplace_back(std::move(tensor_name), std::move(tensor));
    }
    return {WeightFile::of(SafetensorsFile::of_tensors(name, std::move(tensors)))};
}

// Python's own interrupt is looked at after every tensor; what the callback raises goes up through the
// exporter, which leaves no files behind then.
void report_progress(const nb::object& callback, std::size_t done, std::size_t total,
                     const std::string& tensor) {
    const nb::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (!callback.is_none()) callback(done, total, tensor);
}

// Of a layer's choices, with the names of Python's export().
LayerOptions layer_options(std::string_view scheme, const std::string& algorithm,
                           std::optional<std::int64_t> group_size, bool asymmetric, bool packed,
                           const std::string& rotate, std::int64_t low_rank) {
    LayerOptions options;
    options.algorithm = algorithm;
    options.weight = {group_size.value_or(kSchemeGroups), !asymmetric};
    options.packed = packed;
    const RotationShape rotation = parse_rotation(rotate);
    options.rotation_block = rotation.block;
    options.rotation_kind = rotation.kind;
    options.low_rank = low_rank;
    return options_of_scheme(scheme, std::move(options));
}

PairLayout layout_from(const std::string& name) {
    if (name == "v0") return PairLayout::v0;
    if (name == "v1") return PairLayout::v1;
    if (name == "comfy") return PairLayout::comfy;
    throw InvalidArgument("[export] the layout must be v0, v1, comfy or None, got " + name);
}

ExportReport export_layers(const ModelWeights& model, const std::vector<std::string>& layers,
                           const LayerOptions& how, const std::filesystem::path& folder, int rank,
                           const std::optional<std::string>& layout, const CalibrationStats* calibration,
                           const nb::object& progress) {
    ExportOptions options;
    options.folder = folder;
    options.rank = rank;
    if (layout) options.layout = layout_from(*layout);
    options.calibration = calibration;
    options.progress = [&progress](std::size_t done, std::size_t total, const std::string& tensor) {
        report_progress(progress, done, total, tensor);
    };
    return without_gil([&] { return export_quantized(model.file, uniform_plan(layers, how), options); });
}

nb::list ranges_of(const CalibrationStats& stats, const std::string& layer) {
    nb::list out;
    for (const InputRange& range : stats.ranges_by_step(layer)) {
        out.append(nb::make_tuple(range.min, range.max));
    }
    return out;
}

void bind_calibration(nb::module_& module) {
    nb::class_<CalibrationStats>(module, "CalibrationStats",
                                 "Ranges of the inputs of Linear layers, per step.")
        .def(nb::init<int>(), nb::arg("steps"))
        .def_prop_ro("steps", &CalibrationStats::steps)
        .def(
            "observe",
            [](CalibrationStats& stats, const std::string& layer, int step, const Array& x) {
                stats.observe(layer, step, view_of(x));
            },
            nb::arg("layer"), nb::arg("step"), nb::arg("x"), "One forward of a layer; x float32 or bfloat16.")
        .def("layers", &CalibrationStats::layer_names)
        .def("contains", &CalibrationStats::contains, nb::arg("layer"))
        .def(
            "forwards",
            [](const CalibrationStats& stats, const std::string& layer) { return stats.forwards(layer); },
            nb::arg("layer"), "Number of forwards in each step.")
        .def("ranges", &ranges_of, nb::arg("layer"), "(min, max) of each step.")
        .def("merge", &CalibrationStats::merge, nb::arg("other"))
        .def("save", &CalibrationStats::save, nb::arg("path"))
        .def_static("load", &CalibrationStats::load, nb::arg("path"));
}

void bind_export_call(nb::module_& module) {
    nb::class_<LayerOptions>(module, "LayerOptions", "How one layer is stored.")
        .def(nb::new_(&layer_options), nb::kw_only(), nb::arg("scheme"), nb::arg("algorithm"),
             nb::arg("group_size").none(), nb::arg("asymmetric"), nb::arg("packed"), nb::arg("rotate"),
             nb::arg("low_rank"));
    nb::class_<ExportReport::Layer>(module, "ExportedLayer")
        .def_ro("name", &ExportReport::Layer::name)
        .def_ro("quant_type", &ExportReport::Layer::quant_type)
        .def_ro("out_features", &ExportReport::Layer::n)
        .def_ro("in_features", &ExportReport::Layer::k)
        .def_ro("relative_error", &ExportReport::Layer::relative_error)
        .def_ro("group_size", &ExportReport::Layer::group_size);
    nb::class_<ExportReport>(module, "ExportReport")
        .def_prop_ro("description", [](const ExportReport& report) { return path_text(report.description); })
        .def_prop_ro("weights", [](const ExportReport& report) { return path_text(report.weights); })
        .def_ro("layers", &ExportReport::layers)
        .def_ro("bytes_before", &ExportReport::bytes_before)
        .def_ro("bytes_after", &ExportReport::bytes_after);
    module.def("export", &export_layers, nb::arg("model"), nb::arg("layers"), nb::arg("how"), nb::kw_only(),
               nb::arg("folder"), nb::arg("rank"), nb::arg("layout").none(), nb::arg("calibration").none(),
               nb::arg("progress").none(), "Writes the quantized pair.");
}

}  // namespace

void bind_export(nb::module_& module) {
    bind_calibration(module);
    nb::class_<ModelWeights>(module, "FloatModel", "Named float tensors: of a checkpoint, or in memory.")
        .def_static("open", &open_checkpoint, nb::arg("path"), nb::arg("rank") = -1)
        .def_static("of_tensors", &wrap_tensors, nb::arg("name"), nb::arg("arrays"))
        .def_prop_ro("path", [](const ModelWeights& model) { return path_text(model.file.path()); })
        .def_prop_ro("default_layers",
                     [](const ModelWeights& model) { return std::string(model.defaults.layers); })
        .def(
            "linear_layers", [](const ModelWeights& model) { return linear_layers(model.file); },
            "Names of the layers with a float matrix '<name>.weight'.");
    bind_export_call(module);
}

}  // namespace aerogel::python
