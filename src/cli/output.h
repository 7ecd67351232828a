// The one place where the command prints. What comes from files, prompts and paths may hold anything: control
// characters are shown, not sent to the terminal. A result that cannot be printed is an error.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

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

}  // namespace aerogel::cli
