// The thread pool: every task once, results independent of the number of threads, nested calls,
// several callers at once.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/threads.h"

namespace aerogel {
namespace {

class ThreadPool : public ::testing::Test {
  protected:
    void TearDown() override { set_num_threads(before_); }
    int before_ = num_threads();
};

TEST_F(ThreadPool, EveryTaskRunsOnceForAnyNumberOfThreads) {
    for (const int threads : {1, 2, 3, 7, 16}) {
        set_num_threads(threads);
        ASSERT_EQ(num_threads(), threads);
        for (const std::int64_t count : {0, 1, 2, 5, 1000}) {
            std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
            std::atomic<bool> worker_in_range{true};
            parallel_for(count, [&](std::int64_t task, int worker) {
                ++runs[static_cast<std::size_t>(task)];
                if (worker < 0 || worker >= threads) worker_in_range = false;
            });
            EXPECT_TRUE(worker_in_range);
            for (const auto& times : runs) EXPECT_EQ(times, 1);
        }
    }
}

TEST_F(ThreadPool, ANegativeCountDoesNothing) {
    parallel_for(-3, [](std::int64_t, int) { FAIL(); });
}

// The pattern every kernel follows: tasks of fixed content, partial sums joined in task order.
std::vector<float> partial_sums() {
    std::vector<float> sums(64);
    parallel_for(64, [&](std::int64_t task, int) {
        float sum = 0;
        for (int i = 0; i < 1000; ++i) sum += std::sin(static_cast<float>(task * 1000 + i)) * 1e-3F;
        sums[static_cast<std::size_t>(task)] = sum;
    });
    return sums;
}

TEST_F(ThreadPool, TheNumberOfThreadsDoesNotChangeABit) {
    set_num_threads(1);
    const std::vector<float> one = partial_sums();
    for (const int threads : {2, 3, 5}) {
        set_num_threads(threads);
        EXPECT_EQ(partial_sums(), one);
    }
}

TEST_F(ThreadPool, AWorkerNumberIsNeverInUseTwice) {
    set_num_threads(4);
    std::array<std::atomic<int>, 4> inside{};
    std::atomic<bool> clash{false};
    parallel_for(2000, [&](std::int64_t, int worker) {
        auto& mine = inside[static_cast<std::size_t>(worker)];
        if (mine.fetch_add(1) != 0) clash = true;
        std::this_thread::yield();
        mine.fetch_sub(1);
    });
    EXPECT_FALSE(clash);
}

TEST_F(ThreadPool, ANestedCallRunsInlineUnderTheSameWorker) {
    set_num_threads(3);
    std::atomic<int> inner_runs{0};
    std::atomic<bool> same{true};
    parallel_for(20, [&](std::int64_t, int worker) {
        const auto thread = std::this_thread::get_id();
        parallel_for(10, [&](std::int64_t, int inner_worker) {
            if (inner_worker != worker || std::this_thread::get_id() != thread) same = false;
            ++inner_runs;
        });
    });
    EXPECT_TRUE(same);
    EXPECT_EQ(inner_runs, 200);
}

TEST_F(ThreadPool, SeveralCallersTakeTurns) {
    set_num_threads(3);
    std::atomic<int> runs{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) {
        callers.emplace_back([&] {
            for (int i = 0; i < 50; ++i) parallel_for(11, [&](std::int64_t, int) { ++runs; });
        });
    }
    for (auto& caller : callers) caller.join();
    EXPECT_EQ(runs, 4 * 50 * 11);
}

TEST_F(ThreadPool, MoreThreadsThanOneDoTheWork) {
    set_num_threads(4);
    std::atomic<int> arrived{0};
    // Four tasks that wait for each other finish only when four threads run them.
    parallel_for(4, [&](std::int64_t, int) {
        ++arrived;
        while (arrived < 4) std::this_thread::yield();
    });
    EXPECT_EQ(arrived, 4);
}

// What every kernel does: memory per worker, sized by num_threads(), then the workers' indices.
bool workers_fit() {
    std::atomic<bool> fit{true};
    run_operation([&] {
        const int threads = num_threads();
        for (int phase = 0; phase < 3; ++phase) {
            parallel_for(23, [&](std::int64_t, int worker) {
                if (worker < 0 || worker >= threads || num_threads() != threads) fit = false;
            });
        }
        if (num_threads() != threads) fit = false;
    });
    return fit;
}

TEST_F(ThreadPool, MayBeReplacedWhileOthersCompute) {
    std::atomic<bool> done{false};
    std::atomic<bool> fit{true};
    std::atomic<int> calls{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller) {
        callers.emplace_back([&] {
            while (!done) {
                if (!workers_fit()) fit = false;
                ++calls;
            }
        });
    }
    for (int i = 0; i < 300 || calls < 30; ++i) set_num_threads(1 + i % 6);
    done = true;
    for (auto& caller : callers) caller.join();
    EXPECT_TRUE(fit);
}

TEST_F(ThreadPool, ATaskMayReplaceThePoolItRunsIn) {
    set_num_threads(4);
    std::atomic<int> runs{0};
    parallel_for(40, [&](std::int64_t task, int) {
        set_num_threads(task % 2 == 0 ? 3 : 2);
        ++runs;
    });
    EXPECT_EQ(runs, 40);
    EXPECT_TRUE(workers_fit());
}

TEST_F(ThreadPool, AnOperationKeepsThePoolItEntered) {
    set_num_threads(4);
    run_operation([&] {
        set_num_threads(2);
        EXPECT_EQ(num_threads(), 4);
        run_operation([&] { EXPECT_EQ(num_threads(), 4); });
    });
    EXPECT_EQ(num_threads(), 2);
}

TEST_F(ThreadPool, WrongNumbersOfThreadsAreRefused) {
    for (const int count : {0, -1, 1025}) {
        try {
            set_num_threads(count);
            FAIL();
        } catch (const InvalidArgument& error) {
            EXPECT_EQ(
                std::string(error.what()),
                "[threads] the number of threads must be between 1 and 1024, got " + std::to_string(count));
        }
    }
    EXPECT_EQ(num_threads(), before_);
}

}  // namespace
}  // namespace aerogel
