// The progress bar.
#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "aerogel/threads.h"
#include "cli/command.h"
#include "cli/output.h"

namespace aerogel::cli {

Progress::Progress(std::string what, std::int64_t total)
    : what_(std::move(what)),
      total_(std::max<std::int64_t>(total, 1)),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()) {
    num_threads();  // long work begins: the time to learn of missing threads is now
    warn_about_threads();
    update(0);
}

Progress::~Progress() {
    if (terminal_) std::fputs("\n", stderr);
}

void Progress::update(std::int64_t done, const std::string& detail) {
    if (!terminal_) return;
    constexpr std::int64_t kWidth = 30;
    const std::int64_t filled = std::clamp<std::int64_t>(kWidth * done / total_, 0, kWidth);
    const double elapsed = seconds_since(start_);
    std::string left = "estimating";
    if (done > 0)
        left =
            show_seconds(elapsed / static_cast<double>(done) * static_cast<double>(total_ - done)) + " left";
    const std::string bar = std::string(static_cast<std::size_t>(filled), '#') +
                            std::string(static_cast<std::size_t>(kWidth - filled), '.');
    const std::string line =
        fmt::format("\r{} [{}] {}/{} {} {}\x1b[K", what_, bar, done, total_, left, for_terminal(detail));
    std::fputs(line.c_str(), stderr);
    std::fflush(stderr);
}

}  // namespace aerogel::cli
