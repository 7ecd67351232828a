// Forked children compute: after use, while other threads compute or replace the pool, and from the middle of
// a task; with as many threads as the system gives.
#include "base/fork.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/threads.h"
#include "base/thread_pool.h"

namespace aerogel {
namespace {

constexpr int kRight = 42;

/// The exit code of the child, or nothing when it hangs or is killed.
std::optional<int> wait_for(pid_t child) {
    int status = 0;
    for (int i = 0; i < 6000; ++i) {
        if (waitpid(child, &status, WNOHANG) == child)
            return WIFEXITED(status) ? std::optional(WEXITSTATUS(status)) : std::nullopt;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    return std::nullopt;
}

/// Forks; the child leaves with what `work` returns.
std::optional<int> in_child(const std::function<int()>& work) {
    const pid_t child = fork();
    if (child != 0) return wait_for(child);
    _exit(work());
}

std::int64_t sum_of_squares() {
    std::vector<std::int64_t> squares(500);
    parallel_for(500, [&](std::int64_t i, int) { squares[static_cast<std::size_t>(i)] = i * i; });
    std::int64_t sum = 0;
    for (const std::int64_t square : squares) sum += square;
    return sum;
}

int computes() {
    return sum_of_squares() == 41541750 ? kRight : 1;
}

class Fork : public ::testing::Test {
  protected:
    void SetUp() override {
#if defined(__SANITIZE_THREAD__)
        GTEST_SKIP() << "the thread sanitizer cannot start threads in a forked child";
#endif
        set_num_threads(4);
        computes();
    }
    void TearDown() override {
        set_num_threads(before_);
    }
    int before_ = num_threads();
};

TEST_F(Fork, AChildComputesWithAPoolOfItsOwn) {
    EXPECT_EQ(in_child([] {
                  return num_threads() == 4 && std::thread::hardware_concurrency() > 0 ? computes() : 2;
              }),
              kRight);
    EXPECT_EQ(in_child([] {  // more than one thread, and a grandchild
                  std::atomic<int> arrived{0};
                  parallel_for(4, [&](std::int64_t, int) {
                      ++arrived;
                      while (arrived < 4) std::this_thread::yield();
                  });
                  return in_child(computes).value_or(3);
              }),
              kRight);
    EXPECT_EQ(computes(), kRight);
}

TEST_F(Fork, WhileOtherThreadsComputeAndReplaceThePool) {
#if defined(__SANITIZE_ADDRESS__)
    GTEST_SKIP() << "the address sanitizer's allocator may be locked in a child of several threads";
#endif
    std::atomic<bool> done{false};
    std::vector<std::thread> others;
    for (int i = 0; i < 2; ++i) {
        others.emplace_back([&] {
            while (!done) sum_of_squares();
        });
    }
    others.emplace_back([&] {
        for (int i = 0; !done; ++i) set_num_threads(1 + i % 4);
    });
    bool right = true;
    for (int i = 0; i < 40 && right; ++i) right = in_child(computes) == kRight;
    done = true;
    for (auto& other : others) other.join();
    EXPECT_TRUE(right);
}

TEST_F(Fork, InsideATaskTheChildLeavesAtOnceOrComputesInline) {
    std::atomic<int> right{0};
    parallel_for(8, [&](std::int64_t, int) {
        if (in_child(computes) == kRight) ++right;
    });
    EXPECT_EQ(right, 8);
    EXPECT_EQ(computes(), kRight);
}

TEST_F(Fork, TheChildOfATaskCannotFinishTheOperationAndSaysSo) {
    const std::thread::id caller = std::this_thread::get_id();
    const pid_t parent = getpid();
    std::atomic<pid_t> child{0};
    std::atomic<int> runs{0};
    int code = 0;
    try {
        parallel_for(64, [&](std::int64_t, int) {
            ++runs;
            if (std::this_thread::get_id() == caller && child == 0) {
                const pid_t process = fork();
                if (process != 0) child = process;
                if (process == 0) child = -1;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(1));  // so that every thread gets tasks
        });
    } catch (const Error& error) {
        code = std::string(error.what()).starts_with("[threads] the process was forked") ? computes() : 1;
    }
    if (getpid() != parent) _exit(code);
    EXPECT_EQ(runs, 64);
    if (child > 0) {
        EXPECT_EQ(wait_for(child), kRight);
    }
}

TEST_F(Fork, AValuePerProcessIsMadeAnew) {
    static PerProcess<std::vector<int>> value;
    value.get().assign(3, 1);
    EXPECT_EQ(in_child([] { return value.get().empty() ? kRight : 1; }), kRight);
    EXPECT_EQ(value.get().size(), 3U);
}

std::size_t address_space() {
    std::ifstream pages("/proc/self/statm");
    std::size_t count = 0;
    pages >> count;
    return count * 4096;
}

// 1000 stacks do not fit; what fits is used, and memory is left for work.
TEST_F(Fork, AsManyThreadsAsThereIsRoomFor) {
#if defined(__SANITIZE_ADDRESS__)
    GTEST_SKIP() << "the address sanitizer needs all address space";
#endif
    EXPECT_TRUE(thread_shortage().empty());
    EXPECT_EQ(in_child([] {
                  const rlimit room{address_space() + (std::size_t{320} << 20), RLIM_INFINITY};
                  rlimit stack{std::size_t{8} << 20, RLIM_INFINITY};
                  if (setrlimit(RLIMIT_STACK, &stack) != 0 || setrlimit(RLIMIT_AS, &room) != 0) return 2;
                  set_num_threads(1000);
                  if (num_threads() < 1 || num_threads() > 100) return 3;
                  const std::string expected =
                      "only " + std::to_string(num_threads()) + " of 1000 threads could be started (";
                  if (!thread_shortage().starts_with(expected)) return 4;
                  const std::vector<char> work(std::size_t{64} << 20, 1);
                  return computes();
              }),
              kRight);
    EXPECT_EQ(in_child([] {
                  const rlimit none{address_space() + (std::size_t{32} << 20), RLIM_INFINITY};
                  if (setrlimit(RLIMIT_AS, &none) != 0) return 2;
                  set_num_threads(8);
                  return num_threads() == 1 && !thread_shortage().empty() ? computes() : 3;
              }),
              kRight);
}

}  // namespace
}  // namespace aerogel
