// Files of weights that a model takes all its tensors from: GGUF and quantized checkpoints, under the names
// of diffusers.
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <memory>
#include <string>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "bindings/paths.h"
#include "model/single_files.h"
#include "quant/weight_plan.h"

namespace aerogel::python {
namespace {

std::shared_ptr<QuantizedLinear> layer_from_weights(const WeightFile& file, const ModelPlan& plan,
                                                    const ModuleDecision& decision) {
    return without_gil([&] {
        return std::make_shared<QuantizedLinear>(read_from_weights(file, plan.module_of(decision), decision));
    });
}

}  // namespace

void bind_weight_files(nb::module_& module) {
    nb::class_<WeightFile>(module, "WeightFile", "Tensors of a file under the names of diffusers.")
        .def_static(
            "open",
            [](const std::filesystem::path& path, const std::string& class_name) {
                return WeightFile::open(path, original_names_of(class_name));
            },
            nb::arg("path"), nb::arg("class_name"))
        .def_prop_ro("path", [](const WeightFile& file) { return path_text(file.path()); })
        .def_prop_ro(
            "program", [](const WeightFile& file) { return std::string(file.program()); },
            "Who quantized the checkpoint; empty: nobody.")
        .def("names", &WeightFile::names)
        .def("fits", &WeightFile::fits, nb::arg("name"), nb::arg("shape"),
             "True when the tensor can be taken in this shape.")
        .def(
            "shape", [](const WeightFile& file, const std::string& name) { return file.info(name).shape; },
            nb::arg("name"))
        .def(
            "dtype",
            [](const WeightFile& file, const std::string& name) {
                return std::string(to_string(file.info(name).dtype));
            },
            nb::arg("name"), "\"bf16\"; f32 of what is dequantized.")
        .def(
            "tensor",
            [](const WeightFile& file, const std::string& name) {
                Tensor tensor = without_gil([&] { return file.tensor(name); });
                return nb::make_tuple(std::string(to_string(tensor.dtype())), to_numpy(tensor));
            },
            nb::arg("name"), "(dtype, array) as floats; bf16 as uint16.")
        .def("read", &layer_from_weights, nb::arg("plan"), nb::arg("decision"),
             "The Linear that the plan makes.");
}

}  // namespace aerogel::python
