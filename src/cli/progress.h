// Progress of long work on stderr: a bar with an estimate on a terminal, nothing when piped.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"

namespace aerogel::cli {

class Progress {
  public:
    /// `what` names the work ("generate"), `total` its steps.
    Progress(std::string what, std::int64_t total);
    /// Ends the line.
    ~Progress();
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    /// `done` steps of the total are finished; `detail` is shown behind the bar.
    void update(std::int64_t done, const std::string& detail = "");

  private:
    std::string what_;
    std::int64_t total_;
    bool terminal_;
    Clock::time_point start_;
};

}  // namespace aerogel::cli
