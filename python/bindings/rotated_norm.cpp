// RMSNorm and rotary embedding of q and k in one pass.
#include "ops/rotated_norm.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/calls.h"

namespace aerogel::python {
namespace {

void run_rotated_norm(const Array& x, const OutArray& y, const nb::object& weight, const nb::dict& given) {
    RotatedNorm args;
    args.x = view_of(x);
    args.y = view_of(y);
    if (!weight.is_none()) args.weight = view_of(nb::cast<Array>(weight));
    const auto cos = nb::cast<Array>(given["cos"]), sin = nb::cast<Array>(given["sin"]);
    args.cos = view_of(cos);
    args.sin = view_of(sin);
    args.heads = nb::cast<std::int64_t>(given["heads"]);
    args.per_head = nb::cast<bool>(given["per_head"]);
    args.epsilon = nb::cast<float>(given["epsilon"]);
    without_gil([&] { rotated_norm(args); });
}

}  // namespace

void bind_rotated_norm(nb::module_& module) {
    module.def("rotated_norm", &run_rotated_norm, nb::arg("x"), nb::arg("y"), nb::arg("weight").none(),
               nb::arg("given"),
               "y = rope(rms_norm(x) * weight), of rows or of heads; x and y are [batch, tokens, heads * "
               "head_dim].");
}

}  // namespace aerogel::python
