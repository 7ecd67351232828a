// Attention on quantized q, k and v, and the rotation that goes with it.
#include "aerogel/attention.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/error.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/block_mask.h"
#include "bindings/calls.h"
#include "quant/algorithms/hadamard.h"

namespace aerogel::python {
namespace {

Tensor f32_of(const nb::dict& given, const char* name) {
    return given.contains(name) ? adopt(nb::cast<Array>(given[name]), name).to(DType::f32) : Tensor();
}

// The options of one call and the arrays they point to.
struct Given {
    explicit Given(const nb::dict& given)
        : q_rotation(f32_of(given, "q_rotation")),
          k_rotation(f32_of(given, "k_rotation")),
          scales{f32_of(given, "q_scale"),  f32_of(given, "k_scale"),  f32_of(given, "v_scale"),
                 f32_of(given, "q_offset"), f32_of(given, "k_offset"), f32_of(given, "v_offset")} {
        options.layout = nb::cast<bool>(given["heads_first"]) ? AttentionLayout::bnsd : AttentionLayout::bsnd;
        options.format = attention_format_from("quantized_attention", nb::cast<std::string>(given["format"]));
        options.scale = nb::cast<float>(given["scale"]);
        options.smooth_k = nb::cast<bool>(given["smooth_k"]);
        options.q_tokens = nb::cast<std::int64_t>(given["q_tokens"]);
        options.k_tokens = nb::cast<std::int64_t>(given["k_tokens"]);
        if (q_rotation.defined()) options.q_rotation = q_rotation;
        if (k_rotation.defined()) options.k_rotation = k_rotation;
        if (scales.q_scale.defined()) options.scales = &scales;
    }
    Given(const Given&) = delete;
    Given& operator=(const Given&) = delete;

    Tensor q_rotation, k_rotation;
    AttentionScales scales;
    AttentionOptions options;
};

// With seq_len in `given`: sequences packed behind each other, [tokens, heads, head_dim].
void run(const Array& q, const Array& k, const Array& v, const OutArray& o, const nb::dict& given) {
    Given call(given);
    const TensorView qv = view_of(q), kv = view_of(k), vv = view_of(v), ov = view_of(o);
    const auto mask = mask_in(given, "quantized_attention", qv, kv, call.options.layout);
    call.options.mask = mask ? &*mask : nullptr;
    const bool packed = given.contains("seq_len");
    const auto lengths =
        packed ? nb::cast<std::vector<std::int64_t>>(given["seq_len"]) : std::vector<std::int64_t>();
    without_gil([&] {
        if (packed) {
            attention_packed({qv, kv, vv, ov, lengths}, call.options);
        } else {
            attention(qv, kv, vv, ov, call.options);
        }
    });
}

std::vector<std::string_view> words(std::span<const std::string_view> names) {
    std::vector<std::string_view> given(names.begin(), names.end());
    std::erase(given, "");
    return given;
}

// f32 [size, size], the R of x R.
nb::object rotation(std::int64_t size, std::int64_t seed) {
    const Rotation rotate(size, size, seed);
    const Tensor identity(DType::f32, {size, size});
    std::fill_n(identity.as<float>(), size * size, 0.0F);
    for (std::int64_t i = 0; i < size; ++i) identity.as<float>()[i * size + i] = 1.0F;
    return to_numpy(without_gil([&] { return rotate.rotated_inputs(identity); }));
}

}  // namespace

void bind_quantized_attention(nb::module_& module) {
    nb::class_<AttentionFormatRow>(module, "AttentionFormat", "What a format of attention is called.")
        .def_ro("name", &AttentionFormatRow::name)
        .def_ro("file_type", &AttentionFormatRow::file_type)
        .def_prop_ro("static_types", [](const AttentionFormatRow& row) { return words(row.static_types); })
        .def_ro("strategy", &AttentionFormatRow::strategy)
        .def_ro("rotates", &AttentionFormatRow::rotates)
        .def_ro("needs_rotation", &AttentionFormatRow::needs_rotation);
    module.def("attention_formats", [] {
        return std::vector<AttentionFormatRow>(kAttentionFormats.begin(), kAttentionFormats.end());
    });
    module.def("quantized_attention", &run, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("o"),
               nb::arg("options"));
    module.def("hadamard_rotation", &rotation, nb::arg("size"), nb::arg("seed"),
               "diag(signs) H / sqrt(size), f32 [size, size]; size a power of two, seed -1 for no signs.");
}

}  // namespace aerogel::python
