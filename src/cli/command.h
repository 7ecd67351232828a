// What the subcommands of `aerogel` share: their registration, Ctrl-C and how numbers are shown.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <string_view>

namespace aerogel::cli {

/// Each subcommand lives in its own file and registers itself on the application by one of these.
void add_bench(CLI::App& app);
void add_compare(CLI::App& app);
void add_dequantize(CLI::App& app);
void add_forward(CLI::App& app);
void add_generate(CLI::App& app);
void add_inspect(CLI::App& app);
void add_mine(CLI::App& app);
void add_quantize(CLI::App& app);
void add_tune(CLI::App& app);

/// From now on the first Ctrl-C (SIGINT or SIGTERM) asks the library to stop (aerogel/cancellation.h), so
/// that work ends cleanly, and ends the process itself where that takes longer than a second: temporary files
/// are removed, the exit code is 130. The second one kills at once. A signal that the process was started to
/// ignore stays ignored.
void catch_interrupts();
/// True once Ctrl-C was pressed.
bool interrupted();
/// The last words of an interrupted command; returns its exit code.
int end_interrupted(std::string_view message);

/// Tells on stderr, once, that fewer threads run than were asked for.
void warn_about_threads();

/// "1:05" or "0.82 s".
std::string show_seconds(double seconds);
/// Largest resident memory of this process so far, in bytes.
std::int64_t peak_memory_bytes();

}  // namespace aerogel::cli
