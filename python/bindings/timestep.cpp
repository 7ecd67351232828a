// TimestepPolicyConfig; the package's class of that name derives from it.
#include "aerogel/timestep.h"

#include <nanobind/operators.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/error.h"
#include "bindings/bindings.h"

namespace aerogel::python {
namespace {

[[noreturn]] void refuse_step(nb::handle given) {
    throw InvalidArgument(std::string("[timestep] step must be a whole number, got ") +
                          nb::cast<std::string>(nb::repr(given)));
}

// Python's True is a number and no step; what no int holds is none of a run either.
int step_of(nb::handle given) {
    int step = 0;
    if (!PyLong_Check(given.ptr()) || PyBool_Check(given.ptr()) || !nb::try_cast<int>(given, step)) {
        refuse_step(given);
    }
    return step;
}

std::vector<int> steps_of(nb::handle given) {
    if (PyLong_Check(given.ptr())) return {step_of(given)};
    std::vector<int> steps;
    for (const nb::handle step : nb::iter(given)) steps.push_back(step_of(step));
    return steps;
}

// None and what lies beyond all steps: the default's.
std::optional<int> asked_step(nb::handle given) {
    if (given.is_none()) return std::nullopt;
    const auto index = nb::steal<nb::object>(PyNumber_Index(given.ptr()));
    if (!index.is_valid()) {
        PyErr_Clear();
        refuse_step(given);
    }
    int step = 0;
    return nb::try_cast<int>(index, step) && step >= 0 ? std::optional(step) : std::nullopt;
}

template <typename Class>
void bind_default(Class& policy, const char* name, const char* target) {
    policy.def_prop_rw(
        name, [target](const TimestepPolicyConfig& self) { return self.get_strategy(std::nullopt, target); },
        [target](TimestepPolicyConfig& self, std::string_view strategy) {
            self.set_default(strategy, target);
        });
}

}  // namespace

void bind_timestep(nb::module_& module) {
    nb::class_<TimestepPolicyConfig> policy(module, "TimestepPolicyConfig",
                                            "What timestep-aware layers do in each step.");
    policy
        .def(nb::init<const std::string&, const std::string&, const std::string&>(),
             nb::arg("default_strategy") = "dynamic", nb::arg("w4a4_default_strategy") = "W4A4",
             nb::arg("fa_default_strategy") = "MXFP4")
        .def(
            "register_steps",
            [](TimestepPolicyConfig& self, nb::handle steps, std::string_view strategy,
               std::string_view target) { self.register_steps(steps_of(steps), strategy, target); },
            nb::arg("step_range"), nb::arg("strategy"), nb::arg("target"),
            nb::sig("def register_steps(self, step_range: object, strategy: str, target: str) -> None"))
        .def(
            "get_strategy",
            [](const TimestepPolicyConfig& self, nb::handle step, std::string_view target) {
                return self.get_strategy(asked_step(step), target);
            },
            nb::arg("step").none(), nb::arg("target") = "w8a8_static_linear",
            nb::sig("def get_strategy(self, step: int | None, target: str = 'w8a8_static_linear') -> str"),
            "The strategy of a step, the target's default for None and for steps that nothing covers.")
        .def(
            "attention_format",
            [](const TimestepPolicyConfig& self, std::string_view own, std::optional<int> step) {
                const AttentionFormat format =
                    self.attention_format(attention_format_from("timestep", own), step.value_or(-1));
                return format == AttentionFormat::none ? std::nullopt
                                                       : std::optional(std::string(to_string(format)));
            },
            nb::arg("own"), nb::arg("step").none(),
            "What attention of this format computes in a step; None: float.")
        .def("to_text", &TimestepPolicyConfig::to_text)
        .def_static("text_from", [](int step) { return TimestepPolicyConfig::static_from(step).to_text(); })
        .def(
            "__eq__",
            [](const TimestepPolicyConfig& self, const TimestepPolicyConfig& other) { return self == other; },
            nb::is_operator(), nb::sig("def __eq__(self, arg: object, /) -> bool"))
        .def("__setstate__", [](TimestepPolicyConfig& self, std::string_view text) {
            new (&self) TimestepPolicyConfig(TimestepPolicyConfig::from_text(text));
        });
    bind_default(policy, "default_strategy", "w8a8_static_linear");
    bind_default(policy, "w4a4_default_strategy", "w4a4_linear");
    bind_default(policy, "fa_default_strategy", "fa");
}

}  // namespace aerogel::python
