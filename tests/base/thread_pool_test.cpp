// The thread pool: every task once, results independent of the number of threads, nested calls,
// several callers at once.
#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <xmmintrin.h>

#include <array>
#include <atomic>
#include <barrier>
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
    EXPECT_THROW(run_operation([] {}, -1), InvalidArgument);
}

// What a worker finds as soon as all of them have come, so that none is left out.
template <typename Look>
void on_every_thread(int threads, const Look& look) {
    std::barrier<> all(threads);
    parallel_for(threads, [&](std::int64_t, int worker) {
        all.arrive_and_wait();
        look(worker);
    });
}

TEST_F(ThreadPool, HowTheCallerComputesChangesNothing) {
    set_num_threads(4);
    constexpr unsigned kFlushRoundUpAndTrap = 0x8040U | 0x4000U | 0x1D00U;
    const unsigned before = _mm_getcsr();
    for (const bool started : {false, true}) {
        if (started) parallel_for(4, [](std::int64_t, int) {});
        _mm_setcsr(kFlushRoundUpAndTrap);
        std::array<unsigned, 4> found = {};
        on_every_thread(4, [&](int worker) { found.at(static_cast<std::size_t>(worker)) = _mm_getcsr(); });
        const unsigned after = _mm_getcsr();
        _mm_setcsr(before);
        EXPECT_EQ(after, kFlushRoundUpAndTrap);
        for (const unsigned state : found) EXPECT_EQ(state & 0xFFC0U, 0x1F80U);
        set_num_threads(3);
        set_num_threads(4);
    }
}

TEST_F(ThreadPool, SignalsOfTheProcessAreNotForWorkers) {
    set_num_threads(3);
    sigset_t before;
    pthread_sigmask(SIG_BLOCK, nullptr, &before);
    std::array<bool, 3> terminates = {}, faults = {};
    on_every_thread(3, [&](int worker) {
        sigset_t blocked;
        pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
        terminates.at(static_cast<std::size_t>(worker)) = sigismember(&blocked, SIGTERM) == 0;
        faults.at(static_cast<std::size_t>(worker)) = sigismember(&blocked, SIGBUS) == 0;
    });
    EXPECT_EQ(terminates, (std::array<bool, 3>{true, false, false}));
    EXPECT_EQ(faults, (std::array<bool, 3>{true, true, true}));
    sigset_t after;
    pthread_sigmask(SIG_BLOCK, nullptr, &after);
    for (int signal = 1; signal < SIGRTMIN; ++signal)
        EXPECT_EQ(sigismember(&after, signal), sigismember(&before, signal)) << signal;
}

}  // namespace
}  // namespace aerogel
