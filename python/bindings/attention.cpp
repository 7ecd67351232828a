// Dense attention on arrays.
#include "aerogel/attention.h"

#include <nanobind/stl/string.h>

#include <optional>
#include <string>

#include "bindings/arrays.h"
#include "bindings/attention_layout.h"
#include "bindings/bindings.h"
#include "bindings/block_mask.h"
#include "bindings/calls.h"

namespace aerogel::python {
namespace {

// options: layout, scale, causal, and mask with block = (block_q, block_k) where blocks are hidden.
void dense(const Array& q, const Array& k, const Array& v, const OutArray& o, const nb::dict& given) {
    AttentionOptions options;
    options.layout = layout_of(nb::cast<std::string>(given["layout"]));
    options.scale = nb::cast<float>(given["scale"]);
    options.causal = nb::cast<bool>(given["causal"]);
    const TensorView qv = view_of(q), kv = view_of(k), vv = view_of(v), ov = view_of(o);
    const std::optional<BlockMask> mask = mask_in(given, "attention", qv, kv, options.layout);
    options.mask = mask ? &*mask : nullptr;
    without_gil([&] { attention(qv, kv, vv, ov, options); });
}

}  // namespace

void bind_attention(nb::module_& module) {
    module.def("attention", &dense, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("o"),
               nb::arg("options"));
}

}  // namespace aerogel::python
