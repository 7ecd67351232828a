// Sums by operation and kernel. What runs within an operation is subtracted from it, so that all seconds
// together are those in operations.
#include "aerogel/timings.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "aerogel/error.h"
#include "base/fork.h"
#include "base/timed.h"

namespace aerogel {
namespace {

std::atomic<bool> measuring = false;
thread_local Timed* innermost = nullptr;

struct Sums {
    std::mutex guard;
    std::map<std::pair<std::string, std::string>, OperationTime> operations;
};
PerProcess<Sums> sums;

void add(const OperationCost& cost, double seconds) {
    Sums& mine = sums.get();
    const std::lock_guard lock(mine.guard);
    OperationTime& sum = mine.operations[{std::string(cost.op), std::string(cost.kernel)}];
    sum.op = cost.op;
    sum.kernel = cost.kernel;
    sum.arithmetic = cost.arithmetic;
    ++sum.calls;
    sum.seconds += seconds;
    sum.operations += cost.operations;
    sum.bytes += cost.bytes;
}

}  // namespace

Timed::Timed(const OperationCost& cost) : measured_(measuring.load(std::memory_order_relaxed)) {
    if (!measured_) return;
    cost_ = cost;
    around_ = std::exchange(innermost, this);
    exceptions_ = std::uncaught_exceptions();
    start_ = Clock::now();
}

Timed::~Timed() {
    if (!measured_) return;
    const double seconds = seconds_since(start_);
    innermost = around_;
    if (around_ != nullptr) around_->within_ += seconds;
    if (std::uncaught_exceptions() > exceptions_) return;  // failed, or was cancelled
    try {
        add(cost_, seconds - within_);
    } catch (const std::bad_alloc&) {  // then it is not counted
    }
}

Timings::Timings() {
    if (measuring.exchange(true)) throw Error("[timings] there is one that measures already");
    Sums& mine = sums.get();
    const std::lock_guard lock(mine.guard);
    mine.operations.clear();
}

Timings::~Timings() {
    measuring = false;
}

std::vector<OperationTime> Timings::operations() const {
    std::vector<OperationTime> all;
    {
        Sums& mine = sums.get();
        const std::lock_guard lock(mine.guard);
        for (const auto& [name, operation] : mine.operations) all.push_back(operation);
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const OperationTime& a, const OperationTime& b) { return a.seconds > b.seconds; });
    return all;
}

}  // namespace aerogel
