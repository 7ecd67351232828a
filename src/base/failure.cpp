// One failure per thread.
#include "base/failure.h"

namespace aerogel {
namespace {

thread_local Failure first;

}  // namespace

void note_failure(const Failure& failure) noexcept {
    if (first.code == 0) first = failure;
}

bool failed() noexcept {
    return first.code != 0;
}

Failure take_failure() noexcept {
    const Failure taken = first;
    first = {};
    return taken;
}

}  // namespace aerogel
