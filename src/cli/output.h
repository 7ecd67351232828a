// The one place where the command prints. What comes from files, prompts and paths may hold anything: control
// characters are shown, not sent to the terminal. A result that cannot be printed is an error.
// Progress of long work is a bar with an estimate on a terminal, nothing when piped.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace aerogel::cli {

/// Control characters (but ends of lines and tabs), marks that turn the direction of writing and bytes that
/// are not UTF-8, all as \x1b or \u202e.
std::string for_terminal(std::string_view text);

/// Writes `text` as for_terminal() gives it, and an end of line, to standard output. IoError.
void print_text(std::string_view text);
/// Writes valid JSON without such characters; bytes that are not UTF-8 become U+FFFD. IoError.
void print_json(const nlohmann::ordered_json& json);
/// One line "aerogel: ..." on standard error, whatever is in `message`.
void print_error(std::string_view message);

/// Without these, the first files opened would take the place of closed standard streams; writing too much
/// for a limit (ulimit -f) becomes an error.
void prepare_output();
/// Writes what is still kept back. IoError.
void finish_output();

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
