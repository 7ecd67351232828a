// Workers sleep on a generation counter (futex through std::atomic::wait) and take tasks from one
// atomic index; the calling thread works along as worker 0. Whoever computes holds a share of the pool it
// entered, so that a pool that was replaced ends when its last caller leaves.
#include "base/thread_pool.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/threads.h"
#include "base/cancellation.h"
#include "base/environment.h"
#include "base/fork.h"
#include "base/standard_floats.h"

namespace aerogel {
namespace {

using Task = FunctionRef<void(std::int64_t, int)>;

/// Why tasks were left out.
enum class Stop { none, cancelled, forked };

class ThreadPool;

struct Operation {
    std::shared_ptr<ThreadPool> pool;
    Stop stop = Stop::none;
    int threads = 1;  // of the pool that it may use
};

constexpr int kOutside = -1;

/// What the current thread is in.
struct Place {
    const ThreadPool* pool = nullptr;  // of the task
    int worker = kOutside;             // of the task; a nested call keeps its worker's scratch memory
    Operation* operation = nullptr;
};
thread_local Place here;

/// Sets `here` for as long as it lives.
class Entered {
  public:
    explicit Entered(const Place& place) : before_(std::exchange(here, place)) {}
    ~Entered() { here = before_; }
    Entered(const Entered&) = delete;
    Entered& operator=(const Entered&) = delete;

  private:
    Place before_;
};

/// Threads that are made while it lives get none of the signals that are sent to the process: those belong to
/// the program's own threads. What a thread causes itself stays (core/mapped_file.h needs SIGBUS), and so
/// does the timer of profilers.
class SignalsElsewhere {
  public:
    SignalsElsewhere() {
        sigset_t signals;
        ::sigfillset(&signals);
        for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF})
            ::sigdelset(&signals, own);
        ::pthread_sigmask(SIG_SETMASK, &signals, &before_);
    }
    ~SignalsElsewhere() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    SignalsElsewhere(const SignalsElsewhere&) = delete;
    SignalsElsewhere& operator=(const SignalsElsewhere&) = delete;

  private:
    sigset_t before_;
};

int available_cores() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
    return std::max(1, CPU_COUNT(&set));
}

/// Address space that stacks of threads may not take, so that work finds some where it is limited.
class RoomForWork {
  public:
    RoomForWork()
        : at_(mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
    ~RoomForWork() {
        if (found()) munmap(at_, kBytes);
    }
    RoomForWork(const RoomForWork&) = delete;
    RoomForWork& operator=(const RoomForWork&) = delete;

    bool found() const { return at_ != MAP_FAILED; }

  private:
    static constexpr std::size_t kBytes = std::size_t{256} << 20;
    void* at_;
};

class ThreadPool {
  public:
    explicit ThreadPool(int threads) : wanted_(threads) {
        workers_.reserve(static_cast<std::size_t>(threads - 1));
        const RoomForWork room;
        const SignalsElsewhere signals;
        refused_ = room.found() ? 0 : ENOMEM;
        for (int worker = 1; worker < threads && refused_ == 0; ++worker) {
            try {
                workers_.emplace_back([this, worker] { serve(worker); });
            } catch (const std::system_error& error) {
                refused_ = error.code().value();
            } catch (const std::bad_alloc&) {
                refused_ = ENOMEM;
            }
        }
    }

    ~ThreadPool() {
        if (orphaned()) {  // there is nobody to join
            new std::vector<std::thread>(std::move(workers_));
            return;
        }
        ending_ = true;
        generation_.fetch_add(1);
        generation_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int wanted() const { return wanted_; }
    int size() const { return static_cast<int>(workers_.size()) + 1; }

    std::string shortage() const {
        if (size() == wanted_) return "";
        return "only " + std::to_string(size()) + " of " + std::to_string(wanted_) +
               " threads could be started (" + std::generic_category().message(refused_) + ")";
    }

    /// On the first `threads` threads.
    Stop run(std::int64_t count, const Task& task, int threads) {
        if (count == 1 || threads == 1 || workers_.empty() || orphaned()) return run_alone(count, task);
        const Turn turn = wait_for_turn();
        if (turn == Turn::cancelled) return Stop::cancelled;
        if (turn == Turn::orphaned) return run_alone(count, task);
        task_ = &task;
        count_ = count;
        threads_ = threads;
        stop_.store(Stop::none);
        next_.store(0);
        running_.store(static_cast<int>(workers_.size()));
        generation_.fetch_add(1);
        generation_.notify_all();
        take_tasks(0);
        if (orphaned()) return Stop::forked;
        for (int left = running_.load(); left != 0; left = running_.load()) {
            if (!spin_while(running_, left)) running_.wait(left);
        }
        const Stop stop = stop_.load();
        give_turn();
        return stop;
    }

  private:
    enum class Turn { mine, cancelled, orphaned };

    /// True in a forked child of the process that started the workers: here are none.
    bool orphaned() const { return fork_generation() != process_; }

    // The tasks stand directly in the operation: what is nested in them may use the pool and stop it.
    Stop run_alone(std::int64_t count, const Task& task) const {
        for (std::int64_t i = 0; i < count; ++i) {
            if (cancelled()) return Stop::cancelled;
            task(i, 0);
        }
        return Stop::none;
    }

    // Wakes up to look whether the caller still wants to wait.
    Turn wait_for_turn() {
        constexpr std::chrono::milliseconds kPatience(50);
        while (!orphaned()) {
            {
                std::unique_lock lock(turn_);
                if (free_.wait_for(lock, kPatience, [this] { return !busy_; })) {
                    busy_ = true;
                    return Turn::mine;
                }
            }
            if (cancelled()) return Turn::cancelled;
        }
        return Turn::orphaned;
    }

    void give_turn() {
        {
            const std::lock_guard lock(turn_);
            busy_ = false;
        }
        free_.notify_one();
    }

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
        if (worker >= threads_) return;
        const Entered entered({this, worker, nullptr});
        for (std::int64_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) {
            if (worker == 0 && cancelled()) stop_.store(Stop::cancelled);
            if (stop_.load(std::memory_order_relaxed) != Stop::none) return;
            (*task_)(i, worker);
            if (orphaned())
                return;  // the task forked, and this is the child: the tasks of the others are lost
        }
    }

    void serve(int worker) {
        const StandardFloats floats;  // a thread begins with those of its maker
        std::uint64_t seen = 0;
        while (true) {
            if (!spin_while(generation_, seen)) generation_.wait(seen);
            const std::uint64_t now = generation_.load();
            if (now == seen) continue;
            seen = now;
            if (ending_) return;
            take_tasks(worker);
            if (orphaned()) return;
            if (running_.fetch_sub(1) == 1) running_.notify_all();
        }
    }

    int wanted_;
    int refused_ = 0;  // errno
    std::uint64_t process_ = fork_generation();
    std::vector<std::thread> workers_;
    std::mutex turn_;
    std::condition_variable free_;
    bool busy_ = false;
    const Task* task_ = nullptr;
    std::int64_t count_ = 0;
    int threads_ = 0;
    std::atomic<Stop> stop_{Stop::none};
    std::atomic<std::int64_t> next_{0};
    std::atomic<int> running_{0};
    std::atomic<std::uint64_t> generation_{0};
    std::atomic<bool> ending_{false};
};

// More could not help.
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

struct Shared {
    std::mutex guard;
    std::shared_ptr<ThreadPool> pool;
};

PerProcess<Shared> shared;
std::atomic<int> chosen_threads{0};  // by set_num_threads(), which a child inherits

std::shared_ptr<ThreadPool> current_pool() {
    Shared& mine = shared.get();
    const std::lock_guard lock(mine.guard);
    if (!mine.pool) {
        const int chosen = chosen_threads;
        mine.pool = std::make_shared<ThreadPool>(chosen != 0 ? chosen : default_threads());
    }
    return mine.pool;
}

}  // namespace

int num_threads() {
    if (here.worker != kOutside) return here.pool->size();
    if (here.operation != nullptr) return here.operation->threads;
    return current_pool()->size();
}

void set_num_threads(int count) {
    if (count < 1 || count > kMostThreads) {
        throw InvalidArgument("[threads] the number of threads must be between 1 and " +
                              std::to_string(kMostThreads) + ", got " + std::to_string(count));
    }
    std::shared_ptr<ThreadPool> old;  // ends, unless others are in it, after the lock
    Shared& mine = shared.get();
    const std::lock_guard lock(mine.guard);
    chosen_threads = count;
    if (mine.pool && (mine.pool->size() != count || mine.pool->wanted() != count)) old = std::move(mine.pool);
}

std::string thread_shortage() {
    Shared& mine = shared.get();
    const std::lock_guard lock(mine.guard);
    return mine.pool ? mine.pool->shortage() : "";
}

void check_thread_settings() {
    default_threads();
}

bool operation_stopped() noexcept {
    return here.operation != nullptr && here.operation->stop != Stop::none;
}

void parallel_for(std::int64_t count, Task task) {
    if (count <= 0) return;
    if (here.worker != kOutside) {
        for (std::int64_t i = 0; i < count; ++i) task(i, here.worker);
        return;
    }
    Operation* operation = here.operation;
    if (operation == nullptr) return run_operation([&] { parallel_for(count, task); });
    if (operation->stop != Stop::none) return;
    const Stop stop = operation->pool->run(count, task, operation->threads);
    if (stop != Stop::none) operation->stop = stop;
}

void run_operation(FunctionRef<void()> body, int threads) {
    if (threads < 0) {
        throw InvalidArgument("[threads] a call may use 0 (all) or more threads, got " +
                              std::to_string(threads));
    }
    if (here.worker != kOutside) return body();  // a part of the task around it
    stop_if_cancelled();
    const Operation* outer = here.operation;
    Operation own{outer != nullptr ? outer->pool : current_pool()};
    own.threads = outer != nullptr ? outer->threads : own.pool->size();
    if (threads > 0) own.threads = std::min(own.threads, threads);
    {
        const Entered entered({nullptr, kOutside, &own});
        const StandardFloats floats;
        try {
            body();
        } catch (...) {
            if (own.stop == Stop::none) throw;
        }
    }
    if (own.stop == Stop::cancelled) throw Cancelled("[cancelled] the call was asked to stop");
    if (own.stop == Stop::forked) {
        throw Error(
            "[threads] the process was forked in the middle of an operation, which its child cannot finish");
    }
}

}  // namespace aerogel
