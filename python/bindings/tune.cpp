// The search of tune(): Python lists its layers and measures, the core decides.
#include "quant/tune/tune.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/quantized_linear.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "bindings/paths.h"
#include "core/atomic_file.h"
#include "core/hash.h"
#include "quant/float_layer.h"
#include "quant/tune/choices.h"
#include "quant/tune/journal.h"

namespace aerogel::python {
namespace {

// A float Linear as it lies in a checkpoint.
TuneLayer layer_of(const std::string& name, const Array& weight, const std::optional<Array>& bias) {
    const Tensor values = adopt(weight, "weight");
    TuneLayer layer{{name + ".weight", values.dtype(), values.shape()}, std::nullopt};
    if (bias) layer.bias = TensorInfo{name + ".bias", values.dtype(), adopt(*bias, "bias").shape()};
    return layer;
}

// A scheme of one layer: what it stores, and the layer itself.
struct LayerChoice {
    LayerOptions options;
    std::size_t bytes = 0;
};

std::optional<LayerChoice> choice_of(const TuneScheme& scheme, const std::string& name, const Array& weight,
                                     const std::optional<Array>& bias) {
    const TuneLayer layer = layer_of(name, weight, bias);
    const auto options = options_for(scheme, layer);
    if (!options) return std::nullopt;
    return LayerChoice{*options, stored_bytes(*options, layer)};
}

std::shared_ptr<QuantizedLinear> quantized(const LayerChoice& choice, const Array& weight,
                                           const std::optional<Array>& bias) {
    const FloatLayer layer = {"", adopt(weight, "weight"), bias ? adopt(*bias, "bias") : Tensor()};
    return without_gil([&] {
        return std::make_shared<QuantizedLinear>(
            quantize_float(layer, *choice.options.scheme, choice.options));
    });
}

using Choices = std::vector<std::pair<std::string, double>>;  // names and bytes, the unchanged one first

nb::dict row_of(const MeasuredMixture& row) {
    nb::dict dict;
    dict["name"] = row.name;
    dict["choices"] = row.choices;
    dict["bytes"] = row.bytes;
    dict["errors"] = row.errors;
    dict["predicted"] = row.predicted;
    return dict;
}

nb::list rows_of(const std::vector<MeasuredMixture>& rows) {
    nb::list list;
    for (const MeasuredMixture& row : rows) list.append(row_of(row));
    return list;
}

nb::dict run_tune(const std::vector<std::pair<std::string, Choices>>& modules, double fixed_bytes,
                  std::optional<double> max_error, std::optional<double> max_size,
                  const nb::callable& measure, const nb::object& progress, const std::string& measurements,
                  const std::string& subject) {
    TuneProblem problem;
    problem.fixed_cost = problem.fixed_bytes = fixed_bytes;
    problem.max_error = max_error;
    problem.max_cost = max_size;
    for (const auto& [name, choices] : modules) {
        TuneModule module{name, {}};
        for (const auto& [choice, bytes] : choices) module.choices.push_back({choice, bytes, bytes});
        problem.modules.push_back(std::move(module));
    }
    TuneJournal journal(measurements, subject);
    TuneCalls calls;
    calls.measure = [&](const Mixture& mixture) {
        return journal.errors(problem, mixture, [&](const Mixture& asked) {
            if (PyErr_CheckSignals() != 0) throw nb::python_error();
            return nb::cast<StepErrors>(measure(asked));
        });
    };
    if (!progress.is_none()) {
        calls.progress = [&](int done, int total, const std::string& what) { progress(done, total, what); };
    }
    const TuneResult result = tune(problem, calls);
    journal.write();
    nb::dict dict;
    dict["best"] = row_of(result.best);
    dict["uniform"] = rows_of(result.uniform);
    dict["tried"] = rows_of(result.tried);
    dict["alone"] = result.alone;
    dict["least_bytes"] = result.least_cost;
    return dict;
}

void write_recipe(const std::filesystem::path& path, const std::map<std::string, LayerChoice>& layers,
                  const std::vector<std::string>& comment) {
    LayerPlan plan;
    for (const auto& [name, choice] : layers) plan[name] = choice.options;
    write_file_atomically(path, recipe_text(plan, {}, comment));
}

std::string hash_arrays(const std::vector<Array>& arrays) {
    std::uint64_t hash = 0;
    for (const Array& array : arrays) {
        const Tensor tensor = adopt(array, "output");
        hash = hash_bytes({static_cast<const std::byte*>(tensor.data()), tensor.bytes()}, hash);
    }
    return std::to_string(hash);
}

}  // namespace

void bind_tune(nb::module_& module) {
    nb::class_<LayerChoice>(module, "LayerChoice", "How tune() may store a layer.")
        .def_ro("bytes", &LayerChoice::bytes)
        .def("quantize", &quantized, nb::arg("weight"), nb::arg("bias").none(),
             "The Linear made of a float weight.");
    nb::class_<TuneScheme>(module, "TuneScheme", "SCHEME[/ALGORITHM][/GROUP]")
        .def(nb::new_([](const std::string& text) { return tune_scheme(text); }), nb::arg("text"))
        .def_ro("name", &TuneScheme::name)
        .def_prop_ro(
            "needs_inputs",
            [](const TuneScheme& scheme) { return needs_inputs(*scheme.options.scheme, scheme.options); })
        .def("of_layer", &choice_of, nb::arg("name"), nb::arg("weight"), nb::arg("bias").none(),
             "A LayerChoice, or None where the layer cannot be stored so.");
    module.def("tune", &run_tune, nb::arg("modules"), nb::kw_only(), nb::arg("fixed_bytes"),
               nb::arg("max_error").none(), nb::arg("max_size").none(), nb::arg("measure"),
               nb::arg("progress").none(), nb::arg("measurements"), nb::arg("subject"),
               "modules: [(name, [(choice, bytes)])], the unchanged choice first.");
    module.def("write_recipe", &write_recipe, nb::arg("path"), nb::arg("layers"), nb::arg("comment"));
    module.def("hash_arrays", &hash_arrays, nb::arg("arrays"), "Tells arrays apart.");
}

}  // namespace aerogel::python
