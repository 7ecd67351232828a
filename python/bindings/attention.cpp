// Dense and sparse attention on arrays.
#include "aerogel/attention.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/sparse_attention.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/block_mask.h"
#include "bindings/calls.h"

namespace aerogel::python {
namespace {

AttentionLayout layout_of(const std::string& name) {
    if (name == "BNSD") return AttentionLayout::bnsd;
    if (name == "BSND") return AttentionLayout::bsnd;
    throw InvalidArgument("[attention] the layout must be BNSD or BSND, got " + name);
}

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

nb::dict report_of(const SparseReport& report) {
    nb::dict out;
    nb::list heads;
    for (const HeadReport& head : report.heads) {
        nb::dict one;
        one["type"] = std::string(to_string(head.type));
        one["recall"] = head.recall;
        one["density"] = head.density;
        if (head.recalls != HeadReport().recalls) {
            nb::dict recalls;
            constexpr std::array kKinds = {HeadType::spatial, HeadType::temporal, HeadType::textural};
            for (std::size_t i = 0; i < kKinds.size(); ++i)
                recalls[std::string(to_string(kKinds[i])).c_str()] = head.recalls[i];
            one["recalls"] = recalls;
        }
        heads.append(one);
    }
    out["heads"] = heads;
    out["density"] = report.density();
    out["predict_seconds"] = report.predict_seconds;
    out["attention_seconds"] = report.attention_seconds;
    out["dense_because"] = report.dense_because;
    if (report.mask.defined()) out["mask"] = to_numpy(report.mask);
    return out;
}

LatentShape latent_of(const nb::handle& shape) {
    const auto [frames, height, width] =
        nb::cast<std::tuple<std::int64_t, std::int64_t, std::int64_t>>(shape);
    return {frames, height, width};
}

// The options a Python call names; those it does not name keep their defaults. `arrays` keeps the given ones
// alive.
SparseOptions sparse_options(const nb::dict& given, std::vector<Array>& arrays) {
    SparseOptions options;
    const auto take = [&](const char* name, auto& value) {
        if (given.contains(name)) value = nb::cast<std::remove_reference_t<decltype(value)>>(given[name]);
    };
    const auto take_array = [&](const char* name, TensorView& view) {
        if (given.contains(name)) view = view_of(arrays.emplace_back(nb::cast<Array>(given[name])));
    };
    options.type = sparse_type_from(nb::cast<std::string>(given["sparse_type"]));
    options.layout = layout_of(nb::cast<std::string>(given["layout"]));
    options.precision = sparse_precision_from(nb::cast<std::string>(given["precision"]));
    if (given.contains("latent_shape")) options.latent_shape = latent_of(given["latent_shape"]);
    if (given.contains("latent_shape_k")) options.latent_shape_k = latent_of(given["latent_shape_k"]);
    if (given.contains("spans")) {
        for (const nb::handle span : given["spans"])
            options.spans.push_back({nb::cast<std::int64_t>(span[0]), latent_of(span[1])});
    }
    take("sparsity", options.sparsity);
    take("txt_len", options.txt_len);
    take("txt_first", options.txt_first);
    take("block_size", options.block_size);
    take("block_size_k", options.block_size_k);
    take("protect_first_frame", options.protect_first_frame);
    take("min_recall", options.min_recall);
    take("scale", options.scale);
    take("is_causal", options.is_causal);
    take("keep_sink", options.keep_sink);
    take("keep_recent", options.keep_recent);
    take("cdf_threshold", options.cdf_threshold);
    take("return_mask", options.return_mask);
    take_array("q_rotation", options.q_rotation);
    take_array("k_rotation", options.k_rotation);
    take_array("mask", options.mask);
    return options;
}

nb::dict sparse(const Array& q, const Array& k, const Array& v, const OutArray& o, const nb::dict& given) {
    std::vector<Array> arrays;
    const SparseOptions options = sparse_options(given, arrays);
    const TensorView qv = view_of(q), kv = view_of(k), vv = view_of(v), ov = view_of(o);
    return report_of(without_gil([&] { return sparse_attention(qv, kv, vv, ov, options); }));
}

}  // namespace

void bind_attention(nb::module_& module) {
    module.def("attention", &dense, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("o"),
               nb::arg("options"));
    module.def("sparse_attention", &sparse, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("o"),
               nb::arg("options"));
}

}  // namespace aerogel::python
