// The request of the process and the question of each thread.
#include "base/cancellation.h"

#include <atomic>
#include <chrono>

namespace aerogel {
namespace {

static_assert(std::atomic<bool>::is_always_lock_free, "request_cancellation() runs in signal handlers");
std::atomic<bool> requested{false};
thread_local CancellationQuestion* question = nullptr;

}  // namespace

void request_cancellation() noexcept {
    requested.store(true, std::memory_order_relaxed);
}

void withdraw_cancellation() noexcept {
    requested.store(false, std::memory_order_relaxed);
}

bool cancellation_requested() noexcept {
    return requested.load(std::memory_order_relaxed);
}

bool cancelled() noexcept {
    return cancellation_requested() || (question != nullptr && question->answer());
}

void stop_if_cancelled() {
    if (cancelled()) throw Cancelled("[cancelled] the call was asked to stop");
}

CancellationQuestion::CancellationQuestion(FunctionRef<bool()> asked)
    : asked_(asked), outer_(question), last_(Clock::now()) {
    question = this;
}

CancellationQuestion::~CancellationQuestion() {
    question = outer_;
}

bool CancellationQuestion::answer() noexcept {
    constexpr std::chrono::milliseconds kPause(50);
    if (yes_) return true;
    if (asking_ || Clock::now() - last_ < kPause) return false;
    asking_ = true;  // who asks may call us, and is not asked in turn
    yes_ = asked_();
    asking_ = false;
    last_ = Clock::now();
    return yes_;
}

}  // namespace aerogel
