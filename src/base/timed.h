// How an operation tells a Timings of itself.
#pragma once

#include <string_view>

#include "aerogel/timings.h"
#include "base/clock.h"

namespace aerogel {

struct OperationCost {
    std::string_view op;
    std::string_view kernel = {};
    Arithmetic arithmetic = Arithmetic::none;
    double operations = 0.0;
    double bytes = 0.0;
};

/// One call, from here to the end of the block. Costs next to nothing while nobody measures.
class Timed {
  public:
    explicit Timed(const OperationCost& cost);
    ~Timed();
    Timed(const Timed&) = delete;
    Timed& operator=(const Timed&) = delete;

  private:
    bool measured_;
    OperationCost cost_;
    Clock::time_point start_;
    Timed* around_ = nullptr;
    double within_ = 0.0;  // seconds of the operations in it
    int exceptions_ = 0;   // on their way when it began
};

}  // namespace aerogel
