// Whether the work of this thread should stop: the one question that the pool asks between tasks and that
// every loop asks which waits or runs long outside of it.
#pragma once

#include "aerogel/cancellation.h"
#include "base/clock.h"
#include "base/function_ref.h"

namespace aerogel {

/// True once request_cancellation() was called or the thread's CancellationQuestion was answered with yes.
/// Cheap enough for every task.
bool cancelled() noexcept;
/// Throws Cancelled when cancelled().
void stop_if_cancelled();

/// Whether parallel_for() left out tasks of the operation that this thread is in: what they were to write is
/// not there. Steps that would read it end instead; run_operation() throws.
bool operation_stopped() noexcept;

/// While it lives, the work of the calling thread stops also when `asked` returns true. It is asked in the
/// middle of operations, at most every 50 ms, on the calling thread, until it says yes. It must not throw and
/// must outlive this object. It may call the library; its calls do not share their work with other threads.
class CancellationQuestion {
  public:
    explicit CancellationQuestion(FunctionRef<bool()> asked);
    ~CancellationQuestion();
    CancellationQuestion(const CancellationQuestion&) = delete;
    CancellationQuestion& operator=(const CancellationQuestion&) = delete;

    bool answer() noexcept;

  private:
    FunctionRef<bool()> asked_;
    CancellationQuestion* outer_;
    Clock::time_point last_;
    bool yes_ = false;
    bool asking_ = false;
};

}  // namespace aerogel
