// Sparse attention on arrays: what a user chooses as structs, a plan as a value.
#include "aerogel/sparse_attention.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "bindings/arrays.h"
#include "bindings/attention_layout.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"
#include "sparse/check.h"
#include "sparse/parameters.h"
#include "sparse/patterns/pattern.h"

namespace aerogel::python {
namespace {

using nb::literals::operator""_a;

using Latent = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

LatentShape latent_of(const Latent& shape) {
    return {std::get<0>(shape), std::get<1>(shape), std::get<2>(shape)};
}

// The options of a sparse call with the arrays they look at.
struct CallOptions {
    AttentionOptions attention;
    std::optional<DeviceArray> q_rotation, k_rotation;
};

void make_options(CallOptions* self, const std::string& layout, float scale, bool causal,
                  const std::string& precision, std::optional<DeviceArray> q_rotation,
                  std::optional<DeviceArray> k_rotation, int mxfp4_scale_alg, float mxfp4_dst_type_max,
                  std::uintptr_t stream) {
    new (self) CallOptions{sparse_options(sparse_format_from(precision)), std::move(q_rotation),
                           std::move(k_rotation)};
    self->attention.layout = layout_of(layout);
    self->attention.scale = scale;
    self->attention.causal = causal;
    self->attention.mxfp4_scale = {mxfp4_scale_alg, mxfp4_dst_type_max};
    self->attention.call.stream = reinterpret_cast<void*>(stream);
    if (self->q_rotation) self->attention.q_rotation = view_of(*self->q_rotation);
    if (self->k_rotation) self->attention.k_rotation = view_of(*self->k_rotation);
}

void make_layout(VideoLayout* self, const Latent& latent, const Latent& latent_k, std::int64_t txt_len,
                 bool txt_first, const std::vector<std::pair<std::int64_t, Latent>>& spans) {
    new (self) VideoLayout{latent_of(latent), latent_of(latent_k), txt_len, txt_first, {}};
    for (const auto& [start, shape] : spans) self->spans.push_back({start, latent_of(shape)});
}

SparsePlan plan(const DeviceArray& q, const DeviceArray& k, const SparsePattern& pattern,
                const VideoLayout& video, const CallOptions& call, const std::optional<DeviceArray>& mask,
                const std::optional<DeviceArray>& v, bool keep_cells) {
    SparsePlanOptions options{.attention = call.attention, .keep_cells = keep_cells};
    if (mask) options.mask = view_of(*mask);
    if (v) options.v = view_of(*v);
    const TensorView qv = view_of(q), kv = view_of(k);
    return without_gil([&] { return plan_sparse(qv, kv, pattern, video, options); });
}

// Returns the seconds.
double attend(const DeviceArray& q, const DeviceArray& k, const DeviceArray& v, const OutArray& o,
              const SparsePlan& plan, const CallOptions& call, const std::optional<OutArray>& lse) {
    const AttentionArrays arrays{view_of(q), view_of(k), view_of(v), view_of(o)};
    return without_gil([&] {
        const auto start = Clock::now();
        AttentionOptions options = call.attention;
        if (lse) options.lse = view_of(*lse);
        Tensor rotation;
        if (rotates_sparse_calls(options.format) && !call.q_rotation && !call.k_rotation) {
            rotation = hadamard_matrix(arrays.q.shape.back()).to(arrays.q.device);
            options.q_rotation = options.k_rotation = rotation;
        }
        attention(arrays, plan, options);
        return seconds_since(start);
    });
}

void bind_pattern(nb::module_& module) {
    auto pattern = nb::class_<SparsePattern>(module, "SparsePattern");
    pattern.def(
        "__init__",
        [](SparsePattern* self, const std::string& type) {
            new (self) SparsePattern;
            self->type = sparse_type_row(type).name;
        },
        "type"_a);
    pattern.def_ro("type", &SparsePattern::type);
    std::vector<std::string> names;
    for (const SparseParameter& parameter : sparse_parameters()) {
        names.emplace_back(parameter.name);
        std::visit([&](auto member) { pattern.def_rw(parameter.name.data(), member); }, parameter.member);
    }
    module.def("sparse_parameters", [names] { return names; });
}

void bind_types(nb::module_& module) {
    nb::class_<SparseTypeRow>(module, "SparseType")
        .def_ro("name", &SparseTypeRow::name)
        .def_prop_ro("needs_video", &SparseTypeRow::needs_video)
        .def_prop_ro("predicts", &SparseTypeRow::predicts)
        .def("looks_at", &SparseTypeRow::looks_at, "parameter"_a)
        .def_ro("takes_mask", &SparseTypeRow::takes_mask);
    module.def("sparse_types", [] {
        return std::vector<SparseTypeRow>(sparse_type_rows().begin(), sparse_type_rows().end());
    });
}

void bind_plan(nb::module_& module) {
    nb::class_<SparseHead>(module, "SparseHead")
        .def_ro("type", &SparseHead::type)
        .def_ro("recall", &SparseHead::recall)
        .def_ro("density", &SparseHead::density)
        .def_ro("recalls", &SparseHead::recalls);
    nb::class_<SparsePlan>(module, "SparsePlan")
        .def_prop_ro("heads", &heads_of)
        .def_ro("dense_because", &SparsePlan::dense_because)
        .def_ro("predicted", &SparsePlan::predicted)
        .def_ro("seconds", &SparsePlan::seconds)
        .def_prop_ro("density", [](const SparsePlan& self) { return density_of(heads_of(self)); })
        .def_prop_ro("cells", [](const SparsePlan& self) { return to_numpy(self.cells.to(Device::cpu)); });
}

}  // namespace

void bind_sparse_attention(nb::module_& module) {
    bind_pattern(module);
    bind_types(module);
    bind_plan(module);
    nb::class_<VideoLayout>(module, "VideoLayout")
        .def("__init__", &make_layout, nb::kw_only(), "latent"_a = Latent(), "latent_k"_a = Latent(),
             "txt_len"_a = 0, "txt_first"_a = true,
             "spans"_a = std::vector<std::pair<std::int64_t, Latent>>());
    nb::class_<CallOptions>(module, "SparseCallOptions")
        .def("__init__", &make_options, nb::kw_only(), "layout"_a, "scale"_a = 0.0F, "causal"_a = false,
             "precision"_a = "none", "q_rotation"_a = nb::none(), "k_rotation"_a = nb::none(),
             "mxfp4_scale_alg"_a = 0, "mxfp4_dst_type_max"_a = 0.0F, "stream"_a = 0);
    module.def(
        "check_sparse_settings",
        [](const SparsePattern& pattern, const CallOptions& call) {
            check_settings(pattern, call.attention);
        },
        "pattern"_a, "options"_a);
    module.def("plan_sparse", &plan, "q"_a, "k"_a, "pattern"_a, "video"_a, "options"_a, nb::kw_only(),
               "mask"_a = nb::none(), "v"_a = nb::none(), "keep_cells"_a = false);
    module.def("sparse_attention", &attend, "q"_a, "k"_a, "v"_a, "o"_a, "plan"_a, "options"_a,
               "lse"_a = nb::none());
}

}  // namespace aerogel::python
