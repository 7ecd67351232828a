// Cancelling: between tasks, for the process and for one thread, before the work begins, while a call waits
// for its turn; and never with a result.
#include "base/cancellation.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "aerogel/threads.h"
#include "base/thread_pool.h"

namespace aerogel {
namespace {

using std::chrono::milliseconds;

class Cancellation : public ::testing::TestWithParam<int> {
  protected:
    void SetUp() override { set_num_threads(GetParam()); }
    void TearDown() override {
        withdraw_cancellation();
        set_num_threads(before_);
    }
    int before_ = num_threads();
};

INSTANTIATE_TEST_SUITE_P(Threads, Cancellation, ::testing::Values(1, 3));

TEST_P(Cancellation, LeavesTheOtherTasksOut) {
    std::atomic<std::int64_t> runs{0};
    EXPECT_THROW(parallel_for(1'000'000'000,
                              [&](std::int64_t task, int) {
                                  ++runs;
                                  if (task == 5) request_cancellation();
                              }),
                 Cancelled);
    EXPECT_GT(runs, 5);
    EXPECT_LT(runs, 1'000'000);
    EXPECT_THROW(parallel_for(2, [&](std::int64_t, int) { FAIL(); }), Cancelled);
    EXPECT_THROW(run_operation([] { FAIL(); }), Cancelled);
    withdraw_cancellation();
    std::atomic<int> again{0};
    parallel_for(7, [&](std::int64_t, int) { ++again; });
    EXPECT_EQ(again, 7);
}

// A kernel cannot throw: its later phases are left out too, and the operation around it throws.
TEST_P(Cancellation, ComesOutOfTheOperationAroundAKernel) {
    std::atomic<int> later{0};
    const auto kernel = [&]() noexcept {
        parallel_for(100, [&](std::int64_t, int) { request_cancellation(); });
        withdraw_cancellation();  // once seen it stays
        parallel_for(100, [&](std::int64_t, int) { ++later; });
    };
    EXPECT_THROW(run_operation(kernel), Cancelled);
    EXPECT_EQ(later, 0);
}

TEST_P(Cancellation, HidesErrorsOfUnfinishedNumbers) {
    EXPECT_THROW(run_operation([&] {
                     parallel_for(100, [&](std::int64_t, int) { request_cancellation(); });
                     throw InvalidArgument("a row is not finite");
                 }),
                 Cancelled);
}

TEST_P(Cancellation, ATaskIsNeverCutShort) {
    std::atomic<int> inner{0}, outer{0};
    EXPECT_THROW(run_operation([&] {
                     parallel_for(300, [&](std::int64_t, int) {
                         request_cancellation();
                         if (num_threads() == 1)
                             return;  // nothing but this thread: the nested call ends as well
                         run_operation([&] { parallel_for(10, [&](std::int64_t, int) { ++inner; }); });
                         ++outer;
                     });
                 }),
                 Cancelled);
    EXPECT_EQ(inner, 10 * outer);
}

TEST_P(Cancellation, AQuestionEndsTheWorkOfItsThreadAlone) {
    std::atomic<int> asked{0};
    std::atomic<bool> done{false};
    std::thread other([&] {
        while (!done) parallel_for(5, [](std::int64_t, int) {});
    });
    {
        const auto question = [&] { return ++asked == 3; };
        const CancellationQuestion in_use(question);
        EXPECT_THROW(parallel_for(1'000'000'000,
                                  [](std::int64_t, int) { std::this_thread::sleep_for(milliseconds(1)); }),
                     Cancelled);
        EXPECT_TRUE(cancelled());
        EXPECT_EQ(asked, 3);
    }
    EXPECT_FALSE(cancelled());
    done = true;
    other.join();
    parallel_for(5, [](std::int64_t, int) {});
}

TEST_P(Cancellation, TheOneWhoAsksMayCompute) {
    std::atomic<int> computed{0};
    const auto question = [&] {
        run_operation([&] { parallel_for(9, [&](std::int64_t, int) { ++computed; }); });
        return computed >= 18;
    };
    const CancellationQuestion in_use(question);
    EXPECT_THROW(
        parallel_for(1'000'000'000, [](std::int64_t, int) { std::this_thread::sleep_for(milliseconds(1)); }),
        Cancelled);
    EXPECT_EQ(computed, 18);
}

TEST_P(Cancellation, ACallThatWaitsForItsTurnGivesUp) {
    if (GetParam() == 1) GTEST_SKIP() << "one thread has no turns";
    std::atomic<bool> began{false}, end{false};
    std::thread other([&] {
        parallel_for(2, [&](std::int64_t, int) {
            began = true;
            while (!end) std::this_thread::sleep_for(milliseconds(1));
        });
    });
    while (!began) std::this_thread::yield();
    {
        const auto yes = [] { return true; };
        const CancellationQuestion in_use(yes);
        EXPECT_THROW(parallel_for(5, [](std::int64_t, int) { FAIL(); }), Cancelled);
    }
    end = true;
    other.join();
}

}  // namespace
}  // namespace aerogel
