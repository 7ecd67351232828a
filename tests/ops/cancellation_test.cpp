// Operations that are cancelled in their middle throw and never return half a result; a call from the middle
// of another one has a workspace of its own.
#include "base/cancellation.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/linear.h"
#include "aerogel/sparse_attention.h"
#include "ops/machines.h"
#include "ops/planning.h"
#include "ops/workspace.h"

namespace aerogel {
namespace {

Tensor wave(const Shape& shape) {
    Tensor tensor(DType::f32, shape);
    for (std::int64_t i = 0; i < tensor.count(); ++i)
        tensor.mutable_as<float>()[i] = static_cast<float>(i % 17 - 8) / 8.0F;
    return tensor;
}

class CancelledOperation : public ::testing::Test {
  protected:
    void TearDown() override { withdraw_cancellation(); }
};

TEST_F(CancelledOperation, ThrowsBeforeItBegins) {
    Tensor q = wave({1, 2, 64, 32}), o = wave({1, 2, 64, 32}), w = wave({16, 32}), x = wave({4, 32}),
           y = wave({4, 16});
    const FloatLinear linear(w, Tensor());
    request_cancellation();
    EXPECT_THROW(attention(q, q, q, o, {}), Cancelled);
    EXPECT_THROW(attention(q, q, q, o, {.format = AttentionFormat::int8}), Cancelled);
    EXPECT_THROW(linear.forward(x, y, {}), Cancelled);
    EXPECT_THROW(FloatLinear(w, Tensor()), Cancelled);
}

// The question is asked between the tasks of the kernels; it computes, and says yes after some time.
TEST_F(CancelledOperation, ThrowsInTheMiddleOfAKernel) {
    Tensor q = wave({1, 4, 512, 64}), o = wave({1, 4, 512, 64}), small = wave({1, 2, 40, 16}),
           out = wave({1, 2, 40, 16});
    Tensor wanted = wave({1, 2, 40, 16});
    attention(small, small, small, wanted, {});
    for (const auto format : {AttentionFormat::none, AttentionFormat::int8}) {
        int asked = 0;
        bool same = true;
        const auto question = [&] {
            attention(small, small, small, out, {});
            for (std::int64_t i = 0; i < out.count(); ++i)
                same = same && out.as<float>()[i] == wanted.as<float>()[i];
            return ++asked == 2;
        };
        const CancellationQuestion in_use(question);
        const auto forever = [&] {
            while (true) attention(q, q, q, o, {.format = format});
        };
        EXPECT_THROW(forever(), Cancelled);
        EXPECT_EQ(asked, 2);
        EXPECT_TRUE(same);
    }
}

// Planning kernels of the CPU, of which one finds that the call is to stop.
struct StoppedPlanning {
    static inline const PlanningKernels* of_cpu = nullptr;
    static inline int kernels_before = 0;

    template <auto kernel, typename Args>
    static void in_tasks(const Args& args) noexcept {
        if (kernels_before-- == 0) request_cancellation();
        (of_cpu->*kernel)(args);
    }
    // Reads, without tasks, what others wrote.
    template <auto kernel, typename Args>
    static void at_once(const Args& args) noexcept {
        if (cancellation_requested()) {
            ADD_FAILURE() << "reads what nobody wrote";
        } else {
            (of_cpu->*kernel)(args);
        }
    }

    StoppedPlanning() {
        using Of = PlanningKernels;
        of_cpu = &planning_kernels(Device::cpu);
        kernels = *of_cpu;
        kernels.cell_means = in_tasks<&Of::cell_means, CellMeansArgs>;
        kernels.mean_products = in_tasks<&Of::mean_products, MeanProductsArgs>;
        kernels.keep_best = in_tasks<&Of::keep_best, KeepBestArgs>;
        kernels.block_lists = in_tasks<&Of::block_lists, BlockListsArgs>;
        kernels.sample_recalls = in_tasks<&Of::sample_recalls, SampleRecallsArgs>;
        kernels.sample_errors = in_tasks<&Of::sample_errors, SampleErrorsArgs>;
        kernels.fan_out = at_once<&Of::fan_out, FanOutArgs>;
        kernels.kept_scores = at_once<&Of::kept_scores, KeptScoresArgs>;
        kernels.block_shares = in_tasks<&Of::block_shares, BlockSharesArgs>;
        kernels.keep_shares = in_tasks<&Of::keep_shares, KeepSharesArgs>;
        machine.planning = rows;
    }

    PlanningKernels kernels;
    MachineRow<PlanningKernels> rows[1] = {{machine_of(Device::cpu).planning[0].level, &kernels}};
    Machine machine = machine_of(Device::cpu);
};

TEST_F(CancelledOperation, SparsePlansStopAfterAnyOfTheirKernels) {
    const Tensor q = wave({1, 528, 2, 16});
    SparsePlanOptions options;
    options.attention.call.threads = 1;
    StoppedPlanning planning;
    const GuestMachine guest(Device::cpu, planning.machine);
    options.v = q;
    struct Type {
        const char* name;
        int kernels;
        bool by_error = false;
    };
    for (const auto& [type, kernels, by_error] :
         {Type{"rf_v1", 5}, {"rf_v1", 7, true}, {"rf_v2", 5}, {"ada_bsa", 3}}) {
        SparsePattern pattern = {.type = type, .sparsity = 0.5, .block_size = 16, .by_error = by_error};
        const auto plan = [&](int kernels_before) {
            StoppedPlanning::kernels_before = kernels_before;
            pattern.sparsity += 0.001;  // whose tables nobody has kept
            plan_sparse(q, q, pattern, {.latent = {33, 4, 4}}, options);
            withdraw_cancellation();
        };
        for (int before = 0; before < kernels; ++before) {
            EXPECT_THROW(plan(before), Cancelled) << type << " " << before;
            withdraw_cancellation();
        }
        EXPECT_NO_THROW(plan(1000));
    }
}

TEST_F(CancelledOperation, WhoAsksInTheMiddleGetsOtherMemoryAndMemoryIsKept) {
    std::byte* before = nullptr;
    {
        const Workspace outer(1000);
        before = outer.data();
        before[5] = std::byte{77};
        const Workspace inner(1000);
        EXPECT_NE(inner.data(), before);
        inner.data()[5] = std::byte{1};
        EXPECT_EQ(before[5], std::byte{77});
    }
    EXPECT_EQ(Workspace(1000).data(), before);
}

TEST_F(CancelledOperation, LittleOfTheMemoryOfManyCallsAtOnceIsKept) {
    constexpr std::size_t kMebibyte = std::size_t{1} << 20;
    {
        std::vector<std::unique_ptr<Workspace>> many;
        for (int i = 0; i < 4; ++i) many.push_back(std::make_unique<Workspace>(300 * kMebibyte));
    }
    EXPECT_LE(kept_workspace_bytes(), (300 + 256 + 1) * kMebibyte);
    EXPECT_GE(kept_workspace_bytes(), 300 * kMebibyte);
    {
        std::vector<std::unique_ptr<Workspace>> many;
        for (int i = 0; i < 4; ++i) many.push_back(std::make_unique<Workspace>(50 * kMebibyte));
    }
    EXPECT_GE(kept_workspace_bytes(), 4 * 50 * kMebibyte);  // those of as many threads
    EXPECT_LE(kept_workspace_bytes(), (300 + 256 + 1) * kMebibyte);
}

}  // namespace
}  // namespace aerogel
