// One sparse attention call, for tests/sparse: sparse_dump REQUEST.json INPUTS.safetensors
// OUTPUT.safetensors. INPUTS holds q, k, v, whose last axis may be longer than the request's head_dim (the
// rest is margin); OUTPUT gets o with the same margins, prefilled with NaN, and unless the call stayed dense
// the mask and the token orders of the plan. The rest of it is printed as JSON.
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "aerogel/error.h"
#include "aerogel/number_types.h"
#include "aerogel/safetensors.h"
#include "aerogel/sparse_attention.h"

namespace {

using aerogel::DType;
using aerogel::Tensor;
using aerogel::TensorView;
using nlohmann::json;

struct Request {
    aerogel::SparsePattern pattern;
    aerogel::VideoLayout video;
    aerogel::SparsePlanOptions options;
};

Request request_from(const json& given) {
    Request request;
    request.pattern.type = given.at("type").get<std::string>();
    request.pattern.sparsity = given.at("sparsity");
    request.pattern.block_size = given.at("block_size");
    request.pattern.protect_first_frame = given.value("protect_first_frame", true);
    request.pattern.min_recall = given.value("min_recall", 0.0);
    const auto latent = given.at("latent_shape").get<std::vector<std::int64_t>>();
    request.video.latent = {latent.at(0), latent.at(1), latent.at(2)};
    request.video.txt_len = given.at("txt_len");
    aerogel::AttentionOptions& attention = request.options.attention;
    attention.layout =
        given.at("layout") == "BNSD" ? aerogel::AttentionLayout::bnsd : aerogel::AttentionLayout::bsnd;
    attention.scale = given.value("scale", 0.0F);
    return request;
}

// The first head_dim columns of a wider array.
template <typename View>
View without_margin(const View& wide, std::int64_t head_dim) {
    View view = wide;
    view.strides = {wide.dim(1) * wide.dim(2) * wide.dim(3), wide.dim(2) * wide.dim(3), wide.dim(3), 1};
    view.shape[3] = head_dim;
    return view;
}

Tensor filled_with_nan(const TensorView& like) {
    Tensor tensor(like.dtype, like.shape);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (std::int64_t i = 0; i < tensor.count(); ++i) {
        if (like.dtype == DType::f32) {
            tensor.mutable_as<float>()[i] = nan;
        } else {
            tensor.mutable_as<aerogel::BFloat16>()[i] = aerogel::to_bfloat16(nan);
        }
    }
    return tensor;
}

// The order of one side of a head, 0 1 2 ... where it has none.
void add_order(const aerogel::SparsePlan& plan, std::size_t map, bool is_k, std::int32_t* out) {
    if (plan.orders.empty()) {
        std::iota(out, out + (is_k ? plan.mask.k_len : plan.mask.q_len), 0);
        return;
    }
    const aerogel::TokenLayout& order = plan.orders.at(plan.order_of.at(map));
    std::copy(is_k ? order.k.begin() : order.q.begin(), is_k ? order.k.end() : order.q.end(), out);
}

void add_plan(const aerogel::SparsePlan& plan, std::map<std::string, Tensor>& results) {
    const auto& mask = plan.mask;
    const auto dense = mask.to_dense();
    Tensor grid(DType::u8, {mask.batch, mask.heads, mask.q_blocks(), mask.k_blocks()});
    std::memcpy(grid.mutable_data(), dense.data(), dense.size());
    results["mask"] = grid;
    const auto maps = static_cast<std::int64_t>(plan.heads.size());
    Tensor q_order(DType::i32, {maps, mask.q_len});
    Tensor k_order(DType::i32, {maps, mask.k_len});
    for (std::int64_t map = 0; map < maps; ++map) {
        const auto index = static_cast<std::size_t>(map);
        add_order(plan, index, false, q_order.mutable_as<std::int32_t>() + map * mask.q_len);
        add_order(plan, index, true, k_order.mutable_as<std::int32_t>() + map * mask.k_len);
    }
    results["q_order"] = q_order;
    results["k_order"] = k_order;
}

json to_json(const aerogel::SparsePlan& plan) {
    json result = {{"dense_because", plan.dense_because}, {"density", plan.density()}};
    for (const auto& head : plan.heads)
        result["heads"].push_back({{"type", head.type}, {"recall", head.recall}, {"density", head.density}});
    return result;
}

void run(char** argv) {
    std::ifstream file(argv[1]);
    const json request = json::parse(file);
    const auto inputs = aerogel::SafetensorsFile::open(argv[2]);
    const std::int64_t head_dim = request.at("head_dim");
    const Tensor q = inputs.tensor("q");
    const Tensor k = inputs.tensor("k");
    const Tensor v = inputs.tensor("v");
    Tensor o = filled_with_nan(q.view());
    const aerogel::AttentionArrays arrays{
        without_margin(q.view(), head_dim), without_margin(k.view(), head_dim),
        without_margin(v.view(), head_dim), without_margin(o.mutable_view(), head_dim)};
    const auto [pattern, video, options] = request_from(request);
    const auto plan = aerogel::plan_sparse(arrays.q, arrays.k, pattern, video, options);
    aerogel::attention(arrays, plan, options.attention);
    std::map<std::string, Tensor> results = {{"o", o}};
    if (plan.dense_because.empty()) add_plan(plan, results);
    aerogel::save_safetensors(argv[3], results);
    std::printf("%s\n", to_json(plan).dump().c_str());
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 4) throw aerogel::InvalidArgument("usage: sparse_dump REQUEST INPUTS OUTPUT");
        run(argv);
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
