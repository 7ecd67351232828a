// A thread computes as a fresh one does: to nearest, with denormal numbers, without traps. A caller may have
// set something else, which its part of the work must not show, and finds it as it was.
#pragma once

#include <xmmintrin.h>

namespace aerogel {

/// For as long as it lives, on the thread that made it.
class StandardFloats {
  public:
    StandardFloats() : before_(_mm_getcsr()) { _mm_setcsr(kStandard); }
    ~StandardFloats() { _mm_setcsr(before_); }
    StandardFloats(const StandardFloats&) = delete;
    StandardFloats& operator=(const StandardFloats&) = delete;

  private:
    static constexpr unsigned kStandard = 0x1F80;
    unsigned before_;
};

}  // namespace aerogel
