// Sparse plans made on the device, through the driver of the tests: masks, orders, types and recalls are
// those of the CPU bit for bit, attention follows them there, nothing waits, and a captured graph makes other
// masks of other inputs.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>

#include "aerogel/sparse_attention.h"
#include "core/cuda_driver.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/rows/device_arrays.h"
#include "kernels/reference/kernels.h"

namespace aerogel::testing {
namespace {

Tensor random_tensor(Shape shape, int seed, DType dtype) {
    Tensor x(DType::f32, std::move(shape));
    std::mt19937 random(static_cast<unsigned>(seed));
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < x.count(); ++i) x.mutable_as<float>()[i] = normal(random);
    return x.to(dtype);
}

/// Adds to each token what makes it like its neighbours in time, or like its place in other frames (of 16
/// tokens): the heads take turns.
Tensor with_kinds(const Tensor& x, int first_kind) {
    Tensor sum = x.to(DType::f32);
    const std::int64_t dim = x.dim(3), heads = x.dim(2);
    for (std::int64_t i = 0; i < sum.count(); ++i) {
        const std::int64_t token = i / dim / heads % x.dim(1), head = i / dim % heads;
        const bool in_time = (head + first_kind) % 2 == 0;
        const std::int64_t at = in_time ? token / 16 : token % 16 * 5;
        sum.mutable_as<float>()[i] += 3.0F * std::cos(0.3F * static_cast<float>(at * (i % dim + 1)));
    }
    return sum.to(x.dtype());
}

/// One sparse call.
struct Request {
    SparsePattern pattern;
    VideoLayout video;
    std::int64_t q_len = 0, k_len = 0;
    std::int64_t batch = 1, heads = 2, kv_heads = 2, head_dim = 8;
    DType dtype = DType::f32;
    bool causal = false, zeros = false;
};

struct Arrays {
    Tensor q, k, v;

    explicit Arrays(const Request& r, int seed = 1)
        : q(random_tensor({r.batch, r.q_len, r.heads, r.head_dim}, seed, r.dtype)),
          k(random_tensor({r.batch, r.k_len, r.kv_heads, r.head_dim}, seed + 1, r.dtype)),
          v(random_tensor({r.batch, r.k_len, r.kv_heads, r.head_dim}, seed + 2, r.dtype)) {
        if (r.zeros) q = Tensor::zeros(r.dtype, q.shape());
        if (r.pattern.type != "rf_v1") return;
        q = with_kinds(q, seed / 10);
        k = with_kinds(k, seed / 10);
        if (r.pattern.by_error) v = with_kinds(v, seed / 10 + 1);
    }
    Arrays there() const {
        Arrays arrays = *this;
        for (Tensor* x : {&arrays.q, &arrays.k, &arrays.v}) *x = x->to(Device::cuda);
        return arrays;
    }
};

SparsePlan plan_of(const Request& r, const Arrays& arrays, void* stream = nullptr, bool keep_cells = false) {
    SparsePlanOptions options;
    options.attention.causal = r.causal;
    options.attention.call.stream = stream;
    if (r.pattern.by_error) options.v = arrays.v;
    options.keep_cells = keep_cells;
    return plan_sparse(arrays.q, arrays.k, r.pattern, r.video, options);
}

void expect_equal(const SparsePlan& got, const SparsePlan& wanted) {
    EXPECT_EQ(got.dense_because, wanted.dense_because);
    EXPECT_EQ(got.mask.row_start, wanted.mask.row_start);
    EXPECT_EQ(got.mask.columns, wanted.mask.columns);
    EXPECT_EQ(got.order_of, wanted.order_of);
    ASSERT_EQ(got.orders.size(), wanted.orders.size());
    for (std::size_t i = 0; i < got.orders.size(); ++i) {
        EXPECT_EQ(got.orders[i].q, wanted.orders[i].q);
        EXPECT_EQ(got.orders[i].k, wanted.orders[i].k);
    }
    ASSERT_EQ(got.heads.size(), wanted.heads.size());
    for (std::size_t i = 0; i < got.heads.size(); ++i) {
        EXPECT_EQ(got.heads[i].type, wanted.heads[i].type);
        EXPECT_EQ(got.heads[i].recall, wanted.heads[i].recall);
        EXPECT_EQ(got.heads[i].recalls, wanted.heads[i].recalls);
        if (wanted.dense_because.empty()) {
            EXPECT_EQ(got.heads[i].density, wanted.heads[i].density);
        }
    }
}

const VideoLayout kVideo = {.latent = {33, 4, 4}, .txt_len = 5};  // 533 tokens

std::vector<Request> block_mean_requests() {
    const VideoLayout wide = {.latent = {5, 9, 12}, .txt_len = 3, .txt_first = false};
    const VideoLayout spans = {.spans = {{7, {9, 6, 8}}, {460, {4, 5, 8}}}};
    return {
        {{.type = "rf_v2", .sparsity = 0.8, .block_size = 16}, kVideo, 533, 533},
        {{.type = "rf_v2", .sparsity = 0.6, .block_size = 16}, kVideo, 533, 533, 2, 4, 2, 5, DType::bf16},
        {{.type = "rf_v2", .sparsity = 0.5, .block_size = 16, .protect_first_frame = false},
         wide,
         543,
         543,
         1,
         1,
         1,
         70},
        {{.type = "rf_v2", .sparsity = 0.8, .block_size = 16}, spans, 640, 640},
        {{.type = "rf_v3", .sparsity = 0.7, .block_size = 16, .block_size_kv = 24}, kVideo, 533, 533},
        {{.type = "rf_v2", .sparsity = 0.8, .block_size = 16},
         kVideo,
         533,
         533,
         1,
         2,
         2,
         8,
         DType::f32,
         false,
         true},
    };
}

std::vector<Request> recognised_requests() {
    return {
        {{.type = "rf_v1", .sparsity = 0.6, .block_size = 16}, kVideo, 533, 533, 1, 3, 3, 16},
        {{.type = "rf_v1", .sparsity = 0.8, .block_size = 16, .min_recall = 0.28},
         kVideo,
         533,
         533,
         2,
         4,
         2,
         8,
         DType::bf16},
        {{.type = "rf_v1", .sparsity = 0.8, .block_size = 16, .min_recall = 1.0}, kVideo, 533, 533},
        {{.type = "rf_v1", .sparsity = 0.8, .block_size = 16, .by_error = true},
         kVideo,
         533,
         533,
         2,
         4,
         2,
         40,
         DType::bf16},
        {{.type = "rf_v1", .sparsity = 0.6, .block_size = 16, .min_recall = 0.45, .by_error = true},
         kVideo,
         533,
         533,
         1,
         4,
         4,
         8},
    };
}

std::vector<Request> antidiagonal_requests() {
    return {
        {{.type = "ada_bsa", .sparsity = 0.5, .block_size = 16, .cdf_threshold = 0.9},
         {},
         300,
         300,
         1,
         2,
         1,
         16},
        {{.type = "ada_bsa", .sparsity = 0.3, .block_size = 24, .cdf_threshold = 0.7},
         {},
         203,
         310,
         2,
         2,
         2,
         40,
         DType::bf16,
         true},
        {{.type = "ada_bsa", .sparsity = 0.6, .block_size = 128, .keep_sink = false, .keep_recent = false},
         {.txt_len = 9},
         900,
         900,
         1,
         1,
         1,
         70},
    };
}

std::vector<Request> requests() {
    std::vector<Request> all = block_mean_requests();
    for (const auto& more : {recognised_requests(), antidiagonal_requests()})
        all.insert(all.end(), more.begin(), more.end());
    return all;
}

TEST(CudaPlanning, PlansAreThoseOfTheCpu) {
    int seed = 0;
    std::set<std::string_view> types;
    for (const Request& request : requests()) {
        SCOPED_TRACE(request.pattern.type + " " + std::to_string(++seed));
        const Arrays arrays(request, seed * 10);
        const EmulatorMood mood(seed % 2 == 0, seed);
        const SparsePlan there = plan_of(request, arrays.there());
        ASSERT_NE(there.on_device, nullptr);
        EXPECT_TRUE(there.mask.row_start.empty());
        expect_equal(on_host(there), plan_of(request, arrays));
        const std::vector<SparseHead> heads = heads_of(there);
        for (const SparseHead& head : heads) types.insert(head.type);
        EXPECT_EQ(heads.size(), static_cast<std::size_t>(request.batch * request.heads));
    }
    EXPECT_TRUE(types.contains("spatial") && types.contains("temporal") && types.contains("dense"));
}

/// Small enough for emulated attention: heads that share keys, with one order and with several, and none.
std::vector<Request> attention_requests() {
    const SparsePattern means = {.type = "rf_v2", .sparsity = 0.8, .block_size = 16},
                        bands = {.type = "rf_v1", .sparsity = 0.9, .block_size = 16},
                        shares = {.type = "ada_bsa", .sparsity = 0.6, .block_size = 24, .cdf_threshold = 0.7};
    return {{means, kVideo, 533, 533, 1, 2, 1, 8, DType::bf16},
            {bands, {.latent = {33, 4, 4}}, 528, 528, 1, 2, 1, 8, DType::bf16},
            {shares, {}, 103, 210, 1, 2, 2, 16, DType::bf16, true},
            {shares, {}, 100, 180, 2, 1, 1, 16}};
}

// The same kernel under the same lists, which lie in another form.
TEST(CudaPlanning, AttentionFollowsAPlanOfTheDevice) {
    int seed = 0;
    for (const Request& request : attention_requests()) {
        SCOPED_TRACE(request.pattern.type + " " + std::to_string(++seed));
        const Arrays arrays = Arrays(request, seed * 10 + 10).there();
        const SparsePlan there = plan_of(request, arrays), here = on_host(there);
        if (request.pattern.type == "rf_v1") {
            EXPECT_EQ(here.heads[0].type, "temporal");
        }
        AttentionOptions options =
            sparse_options(seed % 2 == 0 && !request.causal ? AttentionFormat::int8 : AttentionFormat::none);
        options.causal = request.causal;
        Tensor o(request.dtype, arrays.q.shape(), Device::cuda),
            wanted(request.dtype, arrays.q.shape(), Device::cuda);
        attention({arrays.q, arrays.k, arrays.v, o}, there, options);
        attention({arrays.q, arrays.k, arrays.v, wanted}, here, options);
        const Tensor got = o.to(Device::cpu), expected = wanted.to(Device::cpu);
        EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.bytes()), 0);
    }
}

TEST(CudaPlanning, CellsAndGivenMasks) {
    for (const Request& request :
         {block_mean_requests()[0], recognised_requests()[0], antidiagonal_requests()[0]}) {
        SCOPED_TRACE(request.pattern.type);
        const Arrays arrays(request);
        const SparsePlan there = plan_of(request, arrays.there(), nullptr, true),
                         here = plan_of(request, arrays, nullptr, true);
        const Tensor cells = there.cells.to(Device::cpu);
        ASSERT_EQ(cells.shape(), here.cells.shape());
        EXPECT_EQ(std::memcmp(cells.data(), here.cells.data(), cells.bytes()), 0);
        EXPECT_NE(there.on_device, nullptr);
        if (request.pattern.type == "rf_v1") continue;
        SparsePlanOptions options;
        options.mask = here.cells;  // nothing of q and k is looked at, and nothing copied
        const Arrays moved = arrays.there();
        SparsePlan given = plan_sparse(moved.q, moved.k, request.pattern, request.video, options);
        EXPECT_EQ(given.on_device, nullptr);
        EXPECT_EQ(given.mask.columns, here.mask.columns);
        options.mask = there.cells;
        given = plan_sparse(moved.q, moved.k, request.pattern, request.video, options);
        EXPECT_NE(given.on_device, nullptr);
        EXPECT_EQ(on_host(given).mask.columns, here.mask.columns);
    }
}

// Blocks of 16 tokens for a pattern of 32; a mask of its own for each map, or one for all.
TEST(CudaPlanning, GivenMasksMayBeFinerAndShared) {
    Request request = block_mean_requests()[1];
    const Arrays arrays(request), moved = arrays.there();
    const Tensor fine = plan_of(request, arrays, nullptr, true).cells, there = fine.to(Device::cuda);
    request.pattern.block_size = 32;
    for (const bool shared : {false, true}) {
        SparsePlanOptions on_cpu, on_device;
        on_cpu.mask = fine;
        on_device.mask = there;
        if (shared) on_cpu.mask.shape[0] = on_cpu.mask.shape[1] = 1;
        on_device.mask.shape = on_cpu.mask.shape;
        on_cpu.keep_cells = on_device.keep_cells = true;
        const SparsePlan wanted = plan_sparse(arrays.q, arrays.k, request.pattern, request.video, on_cpu),
                         got = plan_sparse(moved.q, moved.k, request.pattern, request.video, on_device);
        expect_equal(on_host(got), wanted);
        const Tensor cells = got.cells.to(Device::cpu);
        ASSERT_EQ(cells.shape(), wanted.cells.shape());
        EXPECT_EQ(std::memcmp(cells.data(), wanted.cells.data(), cells.bytes()), 0);
    }
}

TEST(CudaPlanning, APlanOfTheDeviceFitsNothingElse) {
    const Request request = block_mean_requests()[0];
    const Arrays arrays(request);
    const SparsePlan there = plan_of(request, arrays.there());
    Tensor o(request.dtype, arrays.q.shape());
    try {
        attention({arrays.q, arrays.k, arrays.v, o}, there);
        FAIL();
    } catch (const std::exception& error) {
        EXPECT_STREQ(
            error.what(),
            "[sparse_attention] the plan lies on cuda:0, q on cpu; on_host() gives a plan for every device");
    }
}

// Nobody waits for the news that a value is not finite: what it decides is computed in full, as dense
// attention would.
TEST(CudaPlanning, WhatIsNotFiniteIsComputedInFull) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (Request request : {block_mean_requests()[0], recognised_requests()[0], antidiagonal_requests()[0]}) {
        SCOPED_TRACE(request.pattern.type);
        if (request.pattern.type.starts_with("rf_")) request.pattern.protect_first_frame = false;
        Arrays arrays(request);
        for (std::int64_t i = 0; i < arrays.k.count(); ++i)
            if (i / request.head_dim % request.kv_heads == 0) arrays.k.mutable_as<float>()[i] = nan;
        const SparsePlan plan = on_host(plan_of(request, arrays.there()));
        EXPECT_EQ(plan.heads[0].density, 1.0);
        if (request.kv_heads > 1) {
            EXPECT_LT(plan.heads[1].density, 1.0);
        }
        if (request.pattern.type == "rf_v1") {
            EXPECT_EQ(plan.heads[0].type, "dense");
        }
    }
}

// Calibrated scales of int8, a value per head of q and of k and v, NaN where a value is not finite, and
// offsets; also under a plan.
TEST(CudaPlanning, CalibratedScalesAreThoseOfTheCpu) {
    Request request = attention_requests()[0];
    request.head_dim = 16;
    Arrays arrays(request, 3);
    reinterpret_cast<std::uint16_t*>(arrays.q.mutable_data())[5] = 0x7FC0;
    const AttentionScales scales = {
        Tensor::of(std::vector<float>{0.1F, 0.05F}, {2}), Tensor::of(std::vector<float>{0.2F}, {1}),
        Tensor::of(std::vector<float>{0.005F}, {1}),      Tensor::of(std::vector<float>{7.0F, -3.0F}, {2}),
        Tensor::of(std::vector<float>{-5.0F}, {1}),       Tensor::of(std::vector<float>{40.0F}, {1})};
    AttentionOptions options = sparse_options(AttentionFormat::int8);
    options.scales = &scales;
    const Arrays moved = arrays.there();
    Arrays finite(request, 3);
    SparsePlan dense;
    dense.heads.resize(2);
    dense.dense_because = "given";
    for (const SparsePlan& plan : {plan_of(request, finite), dense}) {
        Tensor o(request.dtype, arrays.q.shape()), there(request.dtype, arrays.q.shape(), Device::cuda);
        attention({arrays.q, arrays.k, arrays.v, o}, plan, options);
        attention({moved.q, moved.k, moved.v, there}, plan, options);
        const std::vector<float> got = there.to(Device::cpu).to(DType::f32).values(),
                                 wanted = o.to(DType::f32).values();
        for (std::size_t i = 0; i < got.size(); ++i) {
            if (std::isnan(wanted[i]) || std::isnan(got[i])) {
                EXPECT_TRUE(std::isnan(wanted[i]) && std::isnan(got[i])) << i;
            } else {
                EXPECT_NEAR(got[i], wanted[i], 0.02F) << i;
            }
        }
    }
}

// --- CUDA graphs

template <typename... Args>
void ask_driver(const char* name, Args... args) {
    const cuda::CurrentDevice current(0);
    void* const library = dlopen(std::getenv("AEROGEL_CUDA_DRIVER"), RTLD_NOW | RTLD_NOLOAD);
    const auto entry = reinterpret_cast<int (*)(Args...)>(dlsym(library, name));
    ASSERT_EQ(entry(args...), 0) << name;
}

void copy_there(const Tensor& from, Tensor& to) {
    DeviceArrays::memory().from_host(Device::cuda, to.mutable_data(), from.data(), from.bytes());
}

// The captured calls plan and attend; each replay looks at what q, k and v hold then. In between, other calls
// get memory, which is none of the graph's.
TEST(CudaPlanning, AGraphMakesMasksOfWhatItFinds) {
    if (std::getenv("AEROGEL_CUDA_DRIVER") == nullptr) GTEST_SKIP() << "asks the driver of the tests";
    void* stream = nullptr;
    ask_driver("cuStreamCreate", &stream, 1U);
    for (const Request& request : {attention_requests()[1], attention_requests()[3]}) {
        SCOPED_TRACE(request.pattern.type);
        Arrays arrays = Arrays(request, 1).there();
        AttentionOptions options = sparse_options(AttentionFormat::none);
        options.call.stream = stream;
        Tensor o = Tensor::zeros(request.dtype, arrays.q.shape(), Device::cuda);
        SparsePlan plan;
        const auto call = [&] {
            plan = plan_of(request, arrays, stream);
            attention({arrays.q, arrays.k, arrays.v, o}, plan, options);
        };
        call();
        o.to(Device::cpu);
        void *graph = nullptr, *executable = nullptr;
        ask_driver("cuStreamBeginCapture_v2", stream, 0);
        call();
        ask_driver("cuStreamEndCapture", stream, &graph);
        ask_driver("cuGraphInstantiateWithFlags", &executable, graph, 0ULL);
        std::vector<SparsePlan> plans;
        for (const int seed : {40, 50}) {
            const Arrays fresh(request, seed);
            copy_there(fresh.q, arrays.q);
            copy_there(fresh.k, arrays.k);
            copy_there(fresh.v, arrays.v);
            ask_driver("cuGraphLaunch", executable, stream);
            Tensor wanted(request.dtype, o.shape(), Device::cuda);
            const SparsePlan anew = plan_of(request, arrays);
            attention({arrays.q, arrays.k, arrays.v, wanted}, anew, sparse_options(AttentionFormat::none));
            const Tensor got = o.to(Device::cpu), expected = wanted.to(Device::cpu);
            EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.bytes()), 0) << seed;
            expect_equal(on_host(plan), plan_of(request, fresh));
            plans.push_back(on_host(plan));
        }
        EXPECT_TRUE(plans[0].mask.columns != plans[1].mask.columns ||
                    plans[0].heads[0].type != plans[1].heads[0].type);
        ask_driver("cuGraphExecDestroy", executable);
        ask_driver("cuGraphDestroy", graph);
    }
}

// --- kernels alone, on numbers that plans rarely see

template <typename T>
std::vector<T> brought_back(const T* from, std::size_t count) {
    std::vector<T> here(count);
    DeviceArrays::memory().to_host(Device::cuda, here.data(), from, count * sizeof(T));
    return here;
}

TEST(CudaPlanning, TheBestScoresOfARow) {
    const float inf = std::numeric_limits<float>::infinity();
    std::mt19937 random(7);
    for (const std::int64_t columns : {1, 31, 33, 70}) {
        const std::int64_t padded = in_panels(columns), rows = 6;
        std::vector<float> scores(static_cast<std::size_t>(rows * padded),
                                  std::numeric_limits<float>::quiet_NaN());
        for (std::int64_t i = 0; i < rows * padded; ++i) {
            if (i % padded >= columns) continue;
            float& score = scores[static_cast<std::size_t>(i)];
            const std::int64_t row = i / padded;
            score = static_cast<float>(static_cast<int>(random() % 9) - 4) * (row == 5 ? 1e30F : 0.25F);
            if (row == 1) score = random() % 2 == 0 ? 0.0F : -0.0F;
            if (row == 2 && i % 5 == 0) score = i % 2 == 0 ? inf : -inf;
            if (row == 3 && i % padded == columns / 2) score = std::numeric_limits<float>::quiet_NaN();
        }
        std::vector<std::uint8_t> q_kept(static_cast<std::size_t>(rows), 0),
            k_kept(static_cast<std::size_t>(columns), 0);
        q_kept[4] = 1;
        k_kept[static_cast<std::size_t>(columns - 1)] = 1;
        for (const std::int64_t rank : {std::int64_t{1}, columns / 3 + 1, columns}) {
            std::vector<std::uint8_t> wanted(static_cast<std::size_t>(rows * columns), 9);
            KeepBestArgs args{scores.data(), q_kept.data(), k_kept.data(), wanted.data(), 1,
                              rows,          columns,       rank,          nullptr};
            reference::kPlanning.keep_best(args);
            DeviceArrays arrays;
            args.scores = arrays.copy(scores.data(), scores.size());
            args.q_kept = arrays.copy(q_kept.data(), q_kept.size());
            args.k_kept = arrays.copy(k_kept.data(), k_kept.size());
            args.grid = arrays.copy(wanted.data(), wanted.size());
            cuda::kMachine.run(Device::cuda, [&] { cuda::kPlanning.keep_best(args); });
            EXPECT_EQ(brought_back(args.grid, wanted.size()), wanted) << columns << " rank " << rank;
        }
    }
}

TEST(CudaPlanning, SharesOfEqualScoresAreEqual) {
    for (const bool causal : {false, true}) {
        const StridedBlocks blocks = {2, 150, 203, 24, 1, 5, causal};
        const std::int64_t keys = strided(blocks.k_len), columns = blocks.k_blocks();
        const auto count = [](std::int64_t n) { return static_cast<std::size_t>(n); };
        const Tensor random = random_tensor({blocks.maps * blocks.rows() * keys}, 3, DType::f32);
        std::vector<float> scores = random.values();
        for (float& score : scores) score *= 30.0F;
        scores[count(keys * 4 + 1)] = std::numeric_limits<float>::infinity();  // in the second row of blocks
        std::vector<float> here = scores;
        std::vector<double> parts(count(blocks.maps * blocks.rows() * columns)),
            sums(count(blocks.maps * blocks.q_blocks * columns)),
            ranked(count(blocks.maps * blocks.q_blocks * ranked_size(columns)));
        std::vector<std::uint8_t> kept(count(columns), 0), grid(count(blocks.maps * 7 * columns), 9);
        BlockSharesArgs shares{blocks, here.data(), 0.3F, parts.data(), sums.data(), nullptr};
        reference::kPlanning.block_shares(shares);
        KeepSharesArgs keep{blocks, sums.data(), ranked.data(), kept.data(), kept.data(), 0.6,
                            0.2,    causal,      true,          grid.data(), nullptr};
        const std::vector<double> wanted_sums = sums;
        reference::kPlanning.keep_shares(keep);
        DeviceArrays arrays;
        shares.scores = arrays.copy(scores.data(), scores.size());
        shares.parts = arrays.copy(parts.data(), parts.size());
        shares.sums = keep.sums = arrays.copy(sums.data(), sums.size());
        keep.ranked = arrays.copy(ranked.data(), ranked.size());
        keep.q_kept = keep.k_kept = arrays.copy(kept.data(), kept.size());
        keep.grid = arrays.copy(std::vector<std::uint8_t>(grid.size(), 9).data(), grid.size());
        cuda::kMachine.run(Device::cuda, [&] {
            cuda::kPlanning.block_shares(shares);
            cuda::kPlanning.keep_shares(keep);
        });
        const std::vector<double> got = brought_back(shares.sums, sums.size());
        EXPECT_EQ(std::memcmp(got.data(), wanted_sums.data(), got.size() * sizeof(double)), 0);
        EXPECT_EQ(brought_back(keep.grid, grid.size()), grid);
    }
}

TEST(CudaPlanning, StridedProductsAreThoseOfTokens) {
    const LaunchReport report;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        const std::int64_t q_len = 540, k_len = 203, dim = 70, first_row = 3, rows = 65,
                           keys = strided(k_len);
        const Tensor q = random_tensor({2, q_len, dim}, 5, dtype),
                     k = random_tensor({1, k_len, dim}, 6, dtype);
        const Tensor q_there = q.to(Device::cuda), k_there = k.to(Device::cuda);
        Tensor scores(DType::f32, {2, rows, keys}, Device::cuda);
        const StridedProductsArgs args = {
            {q_there.data(), dtype, 0, q_len * dim, dim, 0, 2, 2, q_len, dim, nullptr},
            {k_there.data(), dtype, 0, k_len * dim, dim, 0, 1, 1, k_len, dim, nullptr},
            2,
            first_row,
            rows,
            scores.mutable_as<float>(),
            nullptr};
        cuda::kMachine.run(Device::cuda, [&] { cuda::kPlanning.strided_products(args); });
        const std::vector<float> got = scores.values(), of_q = q.to(DType::f32).values(),
                                 of_k = k.to(DType::f32).values();
        for (std::int64_t i = 0; i < 2 * rows * keys; ++i) {
            const std::int64_t map = i / (rows * keys), row = first_row + i / keys % rows, key = i % keys;
            double sum = 0.0, size = 0.0;
            for (std::int64_t t = 0; t < 8; ++t)
                for (std::int64_t d = 0; d < dim; ++d) {
                    if (row * 8 + 7 - t >= q_len || key * 8 + t >= k_len) continue;
                    const double product =
                        static_cast<double>(
                            of_q[static_cast<std::size_t>((map * q_len + row * 8 + 7 - t) * dim + d)]) *
                        static_cast<double>(of_k[static_cast<std::size_t>((key * 8 + t) * dim + d)]);
                    sum += product;
                    size += std::fabs(product);
                }
            ASSERT_NEAR(static_cast<double>(got[static_cast<std::size_t>(i)]), sum,
                        size * (dtype == DType::f32 ? 0x1p-16 : 0x1p-19))
                << i;
        }
    }
    EXPECT_EQ(report.lines_with("matrix_conflicts"), "");
}

}  // namespace
}  // namespace aerogel::testing
