// Ending work from outside. A request is kept until it is withdrawn; whatever the library computes meanwhile,
// in any thread, ends within the time of one task (milliseconds) by throwing Cancelled.
// layer: base
#pragma once

#include "aerogel/error.h"

namespace aerogel {

/// Thrown by a call that was asked to stop: by request_cancellation(), or by its own progress callback. What
/// the call was writing to (tensors) is then undefined; files appear complete or not at all.
class Cancelled : public Error {
  public:
    using Error::Error;
};

/// Asks all calls of this process to stop. Safe in a signal handler.
void request_cancellation() noexcept;
/// Withdraws the request, so that new calls run.
void withdraw_cancellation() noexcept;
/// True between the request and its withdrawal.
bool cancellation_requested() noexcept;

}  // namespace aerogel
