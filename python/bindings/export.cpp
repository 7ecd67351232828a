// Calibration statistics and the streaming exporter.
#include "quant/export.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "bindings/paths.h"
#include "model/model_files.h"
#include "quant/calibration.h"
#include "quant/layer_patterns.h"

namespace aerogel::python {
namespace {

// The float model: a checkpoint on disk, or tensors of a model in memory.
SafetensorsFile open_checkpoint(const std::filesystem::path& path, int rank) {
    return SafetensorsFile::open(weights_of_model("export", path, rank));
}

SafetensorsFile wrap_tensors(const std::string& name, const nb::dict& arrays) {
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (const auto& [key, value] : arrays) {
        auto tensor_name = nb::cast<std::string>(key);
        Tensor tensor = adopt(nb::cast<Array>(value), tensor_name.c_str());
        tensors.emplace_back(std::move(tensor_name), std::move(tensor));
    }
    return SafetensorsFile::of_tensors(name, std::move(tensors));
}

// Python's own interrupt is looked at after every tensor; what the callback raises goes up through the
// exporter, which leaves no files behind then.
void report_progress(const nb::object& callback, std::size_t done, std::size_t total,
                     const std::string& tensor) {
    const nb::gil_scoped_acquire locked;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (!callback.is_none()) callback(done, total, tensor);
}

LayerOptions layer_options_of(const nb::dict& given) {
    LayerOptions options;
    options.algorithm = nb::cast<std::string>(given["algorithm"]);
    const nb::object group = given["group_size"];
    options.weight = {group.is_none() ? kSchemeGroups : nb::cast<std::int64_t>(group),
                      !nb::cast<bool>(given["asymmetric"])};
    options.rotation_block = nb::cast<std::int64_t>(given["rotate"]);
    options.low_rank = nb::cast<std::int64_t>(given["low_rank"]);
    options.scheme = &scheme_with_choices(nb::cast<std::string>(given["scheme"]), options);
    check_choices(*options.scheme, options);
    options.packed = nb::cast<bool>(given["packed"]);
    return options;
}

PairLayout layout_from(const std::string& name) {
    if (name == "v0") return PairLayout::v0;
    if (name == "v1") return PairLayout::v1;
    throw InvalidArgument("[export] the layout must be v0, v1 or None, got " + name);
}

ExportOptions options_of(const nb::dict& given) {
    ExportOptions options;
    options.folder = nb::cast<std::filesystem::path>(given["folder"]);
    options.rank = nb::cast<int>(given["rank"]);
    if (!given["layout"].is_none()) options.layout = layout_from(nb::cast<std::string>(given["layout"]));
    if (!given["calibration"].is_none()) {
        options.calibration = nb::cast<const CalibrationStats*>(given["calibration"]);
    }
    return options;
}

nb::dict report_of(const ExportReport& report) {
    nb::dict out;
    nb::list layers;
    for (const auto& layer : report.layers) {
        layers.append(nb::make_tuple(layer.name, layer.n, layer.k, layer.relative_error, layer.group_size));
    }
    out["scheme"] = report.layers.empty() ? "" : report.layers.back().quant_type;
    out["description"] = path_text(report.description);
    out["weights"] = path_text(report.weights);
    out["layers"] = layers;
    out["bytes_before"] = report.bytes_before;
    out["bytes_after"] = report.bytes_after;
    return out;
}

nb::dict export_layers(const SafetensorsFile& model, const std::vector<std::string>& layers,
                       const nb::dict& given) {
    ExportOptions options = options_of(given);
    const LayerPlan plan = uniform_plan(layers, layer_options_of(given));
    const auto callback = nb::borrow<nb::object>(given["progress"]);
    options.progress = [&callback](std::size_t done, std::size_t total, const std::string& tensor) {
        report_progress(callback, done, total, tensor);
    };
    return report_of(without_gil([&] { return export_quantized(model, plan, options); }));
}

std::vector<std::int64_t> forwards_of(const CalibrationStats& stats, const std::string& layer) {
    stats.range(layer);  // refuses a layer that never ran
    std::vector<std::int64_t> counts;
    for (int step = 0; step < stats.steps(); ++step) counts.push_back(stats.forwards(layer, step));
    return counts;
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
        .def("forwards", &forwards_of, nb::arg("layer"), "Number of forwards in each step.")
        .def("ranges", &ranges_of, nb::arg("layer"), "(min, max) of each step.")
        .def("merge", &CalibrationStats::merge, nb::arg("other"))
        .def("save", &CalibrationStats::save, nb::arg("path"))
        .def_static("load", &CalibrationStats::load, nb::arg("path"));
}

}  // namespace

void bind_export(nb::module_& module) {
    bind_calibration(module);
    nb::class_<SafetensorsFile>(module, "FloatModel", "Named float tensors: of a checkpoint, or in memory.")
        .def_static("open", &open_checkpoint, nb::arg("path"), nb::arg("rank") = -1)
        .def_static("of_tensors", &wrap_tensors, nb::arg("name"), nb::arg("arrays"))
        .def_prop_ro("path", [](const SafetensorsFile& file) { return path_text(file.path()); })
        .def("linear_layers", &linear_layers, "Names of the layers with a float matrix '<name>.weight'.");
    module.def("export", &export_layers, nb::arg("model"), nb::arg("layers"), nb::arg("options"),
               "Writes the quantized pair and returns a report.");
    module.attr("default_layers") = std::string(kDefaultLayers);
}

}  // namespace aerogel::python
