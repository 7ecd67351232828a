// Workers sleep on a generation counter (futex through std::atomic::wait) and take tasks from one
// atomic index; the calling thread works along as worker 0.
#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/threads.h"
#include "base/environment.h"

namespace aerogel {
namespace {

using Task = FunctionRef<void(std::int64_t, int)>;

constexpr int kOutside = -1;
thread_local int current_worker = kOutside;  // a nested call keeps its worker's scratch memory

int available_cores() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
    return std::max(1, CPU_COUNT(&set));
}

class ThreadPool {
  public:
    explicit ThreadPool(int threads) : size_(threads) {
        for (int worker = 1; worker < threads; ++worker)
            workers_.emplace_back([this, worker] { serve(worker); });
    }

    ~ThreadPool() {
        stop_ = true;
        generation_.fetch_add(1);
        generation_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return size_; }

    void run(std::int64_t count, const Task& task) {
        const std::lock_guard lock(callers_);
        task_ = &task;
        count_ = count;
        next_.store(0);
        running_.store(static_cast<int>(workers_.size()));
        generation_.fetch_add(1);
        generation_.notify_all();
        take_tasks(0);
        for (int left = running_.load(); left != 0; left = running_.load()) {
            if (!spin_while(running_, left)) running_.wait(left);
        }
    }

  private:
    // A short spin bridges the gap between two kernels; a longer one would steal time from others.
    template <typename T>
    static bool spin_while(const std::atomic<T>& value, T old) {
        for (int i = 0; i < 2000; ++i) {
            if (value.load(std::memory_order_acquire) != old) return true;
            __builtin_ia32_pause();
        }
        return false;
    }

    void take_tasks(int worker) {
        current_worker = worker;
        for (std::int64_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) (*task_)(i, worker);
        current_worker = kOutside;
    }

    void serve(int worker) {
        std::uint64_t seen = 0;
        while (true) {
            if (!spin_while(generation_, seen)) generation_.wait(seen);
            const std::uint64_t now = generation_.load();
            if (now == seen) continue;
            seen = now;
            if (stop_) return;
            take_tasks(worker);
            if (running_.fetch_sub(1) == 1) running_.notify_all();
        }
    }

    int size_;
    std::vector<std::thread> workers_;
    std::mutex callers_;
    const Task* task_ = nullptr;
    std::int64_t count_ = 0;
    std::atomic<std::int64_t> next_{0};
    std::atomic<int> running_{0};
    std::atomic<std::uint64_t> generation_{0};
    std::atomic<bool> stop_{false};
};

// More could not help, and a system that refuses a thread half way would end the process.
constexpr int kMostThreads = 1024;

int default_threads() {
    constexpr const char* kName = "AEROGEL_NUM_THREADS";
    const int count = environment_count(kName).value_or(std::min(available_cores(), kMostThreads));
    if (count > kMostThreads) {
        throw InvalidArgument("[environment] " + std::string(kName) + " must be at most " +
                              std::to_string(kMostThreads) + ", got " + std::to_string(count));
    }
    return count;
}

struct Pool {
    std::mutex guard;
    std::unique_ptr<ThreadPool> pool;

    ThreadPool& get() {
        const std::lock_guard lock(guard);
        if (!pool) pool = std::make_unique<ThreadPool>(default_threads());
        return *pool;
    }
};

Pool& the_pool() {
    static Pool pool;
    return pool;
}

}  // namespace

int num_threads() {
    return the_pool().get().size();
}

void set_num_threads(int count) {
    if (count < 1 || count > kMostThreads) {
        throw InvalidArgument("[threads] the number of threads must be between 1 and " +
                              std::to_string(kMostThreads) + ", got " + std::to_string(count));
    }
    Pool& shared = the_pool();
    const std::lock_guard lock(shared.guard);
    if (shared.pool && shared.pool->size() == count) return;
    shared.pool = std::make_unique<ThreadPool>(count);
}

void parallel_for(std::int64_t count, Task task) noexcept {
    if (count <= 0) return;
    if (current_worker != kOutside || count == 1 || num_threads() == 1) {
        const int worker = current_worker == kOutside ? 0 : current_worker;
        for (std::int64_t i = 0; i < count; ++i) task(i, worker);
        return;
    }
    the_pool().get().run(count, task);
}

}  // namespace aerogel
