// What module.cpp registers: one function per file.
#pragma once

#include <nanobind/nanobind.h>

namespace aerogel::python {

void bind_timestep(nanobind::module_& module);
void bind_devices(nanobind::module_& module);
void bind_linear(nanobind::module_& module);
void bind_files(nanobind::module_& module);
void bind_weight_files(nanobind::module_& module);
void bind_attention(nanobind::module_& module);
void bind_sparse_attention(nanobind::module_& module);
void bind_rotated_norm(nanobind::module_& module);
void bind_elementwise(nanobind::module_& module);
void bind_convolution(nanobind::module_& module);
void bind_model_plan(nanobind::module_& module);
void bind_export(nanobind::module_& module);
void bind_reports(nanobind::module_& module);
void bind_outputs(nanobind::module_& module);
void bind_tune(nanobind::module_& module);

}  // namespace aerogel::python
