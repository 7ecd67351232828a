// The plan of a model's quantization: what its modules are goes in, what becomes of each comes out.
#include "quant/model_plan.h"

#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/timestep.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "quant/weight_plan.h"

namespace aerogel::python {
namespace {

LayerSelection selection_of(std::optional<std::vector<std::string>> include,
                            std::vector<std::string> exclude) {
    return {std::move(include), std::move(exclude)};
}

// source: a pair of files or a file of weights, and the plan that is made from it.
template <auto kPlan, typename Source>
ModelPlan by_files(const ModelModules& model, const Source& source,
                   std::optional<std::vector<std::string>> include, std::vector<std::string> exclude,
                   const nb::object& type_of) {
    FileChoices choices{selection_of(std::move(include), std::move(exclude)), {}};
    if (!type_of.is_none()) {
        choices.type_of = [&type_of](const std::string& name, const std::string& stored, bool is_attention) {
            return nb::cast<std::string>(nb::str(type_of(name, stored, is_attention)));
        };
    }
    return kPlan(model, source, choices);
}

std::shared_ptr<QuantizedLinear> read_planned(const ModelPlan& plan, const QuantizedPair& pair,
                                              const ModuleDecision& decision) {
    return without_gil([&] { return std::make_shared<QuantizedLinear>(plan.read(pair, decision)); });
}

std::shared_ptr<QuantizedLinear> quantize_layer(const ModuleDecision& decision, const Array& weight,
                                                const std::optional<Array>& bias) {
    if (decision.scheme == nullptr) throw InvalidArgument("[quantize] the plan takes this layer from files");
    const FloatLayer layer = {"", adopt(weight, "weight"), bias ? adopt(*bias, "bias") : Tensor()};
    return without_gil([&] {
        return std::make_shared<QuantizedLinear>(quantize_float(layer, *decision.scheme, decision.choices));
    });
}

void put_f32(nb::dict& arrays, const char* name, const Tensor& tensor) {
    if (tensor.defined()) arrays[name] = to_numpy(tensor.to(DType::f32));
}

// What the module needs to run: its format, and arrays by the keywords of the package's class.
nb::object attention_of(const ModuleDecision& decision) {
    if (!decision.attention) return nb::none();
    const AttentionQuantization& attention = *decision.attention;
    nb::dict arrays;
    put_f32(arrays, "q_rot", attention.q_rotation);
    put_f32(arrays, "k_rot", attention.k_rotation);
    if (attention.scales) {
        put_f32(arrays, "q_scale", attention.scales->q_scale);
        put_f32(arrays, "k_scale", attention.scales->k_scale);
        put_f32(arrays, "v_scale", attention.scales->v_scale);
        put_f32(arrays, "q_offset", attention.scales->q_offset);
        put_f32(arrays, "k_offset", attention.scales->k_offset);
        put_f32(arrays, "v_offset", attention.scales->v_offset);
    }
    return nb::make_tuple(std::string(to_string(attention.format)), arrays);
}

void bind_modules(nb::module_& module) {
    nb::class_<ModelModule>(module, "ModelModule", "A Linear, or a module that may be attention. Facts.")
        .def(
            "__init__",
            [](ModelModule* self, std::string name, bool is_attention, std::int64_t same_as,
               std::string unfit) {
                new (self) ModelModule();
                self->name = std::move(name);
                self->is_attention = is_attention;
                self->same_as = same_as;
                self->unfit = std::move(unfit);
            },
            nb::arg("name"), nb::kw_only(), nb::arg("is_attention") = false, nb::arg("same_as") = -1,
            nb::arg("unfit") = "")
        .def_rw("name", &ModelModule::name)
        .def_rw("is_attention", &ModelModule::is_attention)
        .def_rw("out_features", &ModelModule::out_features)
        .def_rw("in_features", &ModelModule::in_features)
        .def_rw("heads", &ModelModule::heads)
        .def_rw("head_dim", &ModelModule::head_dim)
        .def_rw("classes", &ModelModule::classes)
        .def_rw("same_as", &ModelModule::same_as)
        .def_rw("in_block", &ModelModule::in_block)
        .def_rw("scheme", &ModelModule::scheme)
        .def_rw("group_size", &ModelModule::group_size)
        .def_rw("unfit", &ModelModule::unfit)
        .def_rw("kept_float32", &ModelModule::kept_float32);
    nb::class_<ModelModules>(module, "ModelModules", "The modules of a model, and what messages call it.")
        .def(
            "__init__",
            [](ModelModules* self, std::string model, std::vector<ModelModule> modules) {
                new (self) ModelModules{std::move(model), std::move(modules)};
            },
            nb::arg("model"), nb::arg("modules"));
}

}  // namespace

void bind_model_plan(nb::module_& module) {
    bind_modules(module);
    nb::class_<ModuleDecision>(module, "ModuleDecision",
                               "What becomes of a module, and why it stays as it is.")
        .def_ro("module", &ModuleDecision::module)
        .def_ro("is_attention", &ModuleDecision::is_attention)
        .def_ro("type", &ModuleDecision::type)
        .def_ro("quantizes", &ModuleDecision::quantizes)
        .def_ro("why", &ModuleDecision::why)
        .def("quantize", &quantize_layer, nb::arg("weight"), nb::arg("bias").none(),
             "The Linear made of a float weight [out_features, in_features] (f32, bf16, f16).")
        .def_prop_ro("attention", &attention_of, "(format, arrays by name) of attention, else None.");
    nb::class_<OnlineQuantConfig>(module, "OnlineQuantConfig", "What to quantize in memory.")
        .def(
            "__init__",
            [](OnlineQuantConfig* self, std::string quant_type,
               std::vector<std::pair<std::string, std::string>> fallback_layers,
               std::optional<std::vector<std::string>> include, std::vector<std::string> exclude,
               std::optional<std::int64_t> group_size, std::string fa_quant_type,
               std::vector<std::string> fa_layers) {
                if (include && include->empty()) {
                    throw InvalidArgument("[quantize] no layer is left to quantize: include is empty");
                }
                new (self) OnlineQuantConfig();
                self->quant_type = std::move(quant_type);
                self->fallback_layers = std::move(fallback_layers);
                self->include = std::move(include).value_or(std::vector<std::string>());
                self->exclude = std::move(exclude);
                self->group_size = group_size.value_or(kSchemeGroups);
                self->fa_quant_type = std::move(fa_quant_type);
                self->fa_layers = std::move(fa_layers);
            },
            nb::arg("quant_type"), nb::kw_only(),
            nb::arg("fallback_layers") = std::vector<std::pair<std::string, std::string>>(),
            nb::arg("include").none() = nb::none(), nb::arg("exclude") = std::vector<std::string>(),
            nb::arg("group_size").none() = nb::none(), nb::arg("fa_quant_type") = "",
            nb::arg("fa_layers") = std::vector<std::string>());
    nb::class_<ModelPlan>(module, "ModelPlan", "A decision per Linear, and per attention that was asked for.")
        .def_prop_ro("decisions", &ModelPlan::decisions)
        .def("read", &read_planned, nb::arg("pair"), nb::arg("decision"), "The Linear as the files have it.");
    module.def("plan_from_files", &by_files<plan_from_files, QuantizedPair>, nb::arg("model"),
               nb::arg("pair"), nb::kw_only(), nb::arg("include").none() = nb::none(),
               nb::arg("exclude") = std::vector<std::string>(), nb::arg("type_of").none() = nb::none());
    module.def("plan_from_weights", &by_files<plan_from_weights, WeightFile>, nb::arg("model"),
               nb::arg("file"), nb::kw_only(), nb::arg("include").none() = nb::none(),
               nb::arg("exclude") = std::vector<std::string>(), nb::arg("type_of").none() = nb::none());
    module.def("plan_in_memory", &plan_in_memory, nb::arg("model"), nb::arg("config"));
    module.def(
        "why_not_chosen",
        [](const ModelModules& model, std::optional<std::vector<std::string>> include,
           std::vector<std::string> exclude) {
            return why_not_chosen(model, selection_of(std::move(include), std::move(exclude)));
        },
        nb::arg("model"), nb::kw_only(), nb::arg("include").none() = nb::none(),
        nb::arg("exclude") = std::vector<std::string>(), "Why each Linear stays float; empty: it is chosen.");
}

}  // namespace aerogel::python
