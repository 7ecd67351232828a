// What the subcommands of `aerogel` share: their registration, Ctrl-C and how numbers are shown.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

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

/// From now on Ctrl-C (SIGINT, SIGTERM) only sets a flag, so that work can stop cleanly.
void catch_interrupts();
/// True once Ctrl-C was pressed.
bool interrupted();

/// "1:05" or "0.82 s".
std::string show_seconds(double seconds);
/// Largest resident memory of this process so far, in bytes.
std::int64_t peak_memory_bytes();

}  // namespace aerogel::cli
