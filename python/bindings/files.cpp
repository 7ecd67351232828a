// Quantized pairs (description and weights) and the choice of layers by name.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <memory>
#include <string>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "bindings/paths.h"
#include "core/text.h"
#include "quant/layer_patterns.h"
#include "quant/load.h"
#include "quant/schemes.h"

namespace aerogel::python {
namespace nb = nanobind;
namespace {

// quant_type: the scheme to read the arrays as; empty: the description's.
std::shared_ptr<QuantizedLinear> read_layer(const QuantizedPair& pair, std::size_t index,
                                            std::int64_t in_features, const std::string& quant_type) {
    QuantizedLayer layer = pair.layers().at(index);
    if (!quant_type.empty()) layer.quant_type = upper_case(quant_type);
    return without_gil([&] { return std::make_shared<QuantizedLinear>(pair.read(layer, in_features)); });
}

}  // namespace

void bind_files(nb::module_& module) {
    nb::class_<QuantizedPair>(module, "QuantizedPair",
                              "A description file and the weights that belong to it.")
        .def_static(
            "open",
            [](const std::filesystem::path& path, int rank) { return QuantizedPair::open(path, rank); },
            nb::arg("path"), nb::arg("rank") = -1)
        .def_prop_ro("path", [](const QuantizedPair& pair) { return path_text(pair.path()); })
        .def_prop_ro("weights_path",
                     [](const QuantizedPair& pair) { return path_text(pair.weights().path()); })
        .def_prop_ro("model_quant_type",
                     [](const QuantizedPair& pair) { return pair.description().model_quant_type; })
        .def(
            "layers",
            [](const QuantizedPair& pair) {
                nb::list rows;
                for (const QuantizedLayer& layer : pair.layers()) {
                    rows.append(nb::make_tuple(layer.name, layer.prefix, layer.quant_type));
                }
                return rows;
            },
            "(name in the model, prefix in the files, type) of every quantized layer.")
        .def("type_of", [](const QuantizedPair& pair,
                           const std::string& key) { return std::string(pair.description().type_of(key)); })
        .def("read", &read_layer, nb::arg("index"), nb::arg("in_features") = 0, nb::arg("quant_type") = "",
             "The layer with this index in layers(), as another type where one is given; in_features of the "
             "model tells how 4-bit weights lie.");
    module.def("select_layers", &select_layers, nb::arg("names"), nb::arg("include"), nb::arg("exclude"),
               "The names that match an include pattern and no exclude pattern.");
    module.def("name_matches", &matches, nb::arg("pattern"), nb::arg("name"),
               "True when the pattern (* ? [ab] {a,b}) matches the whole name.");
}

}  // namespace aerogel::python
