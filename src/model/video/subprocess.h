// Running another program (ffmpeg, ffprobe) beside pipes to its input and from its output; no shell. It ends
// with us: when its object goes, when the call is cancelled, when this process is killed, and when it moves
// no byte for too long.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"

namespace aerogel {

class Subprocess {
  public:
    struct Options {
        std::vector<std::string> arguments;  ///< the first is looked up in PATH
        bool reads = false;                  ///< it reads what we write; otherwise we read what it prints
        double patience = 120.0;             ///< seconds it may take without a byte in or out
    };

    /// Throws IoError when the program cannot be started.
    explicit Subprocess(Options options);
    /// Kills the program, and what it started, if finish() was not reached.
    ~Subprocess();
    Subprocess(const Subprocess&) = delete;
    Subprocess& operator=(const Subprocess&) = delete;

    /// These throw IoError with the program's own last words (one line) when it ended early, failed or hung,
    /// and Cancelled.
    void write(std::span<const std::byte> bytes);
    /// Fills the front of `to`; returns how many bytes, 0 at the end of the output.
    std::size_t read(std::span<std::byte> to);
    /// Waits for its end; a failure exit is an IoError.
    void finish();

  private:
    void wait_for(int end, short events);
    bool exited() const;
    bool end();
    void take_messages();
    [[noreturn]] void fail(const std::string& what);

    std::string name_;
    double patience_;
    Clock::time_point moved_ = Clock::now();
    pid_t process_ = -1;
    int data_ = -1;      // our end of its input or output
    int messages_ = -1;  // our end of its stderr
    std::string said_;   // the last of it
};

/// Throws the IoError of starting a program that is nowhere in PATH.
void check_program(const std::string& name);

/// Everything a program prints, at most `limit` bytes. Errors as above; InvalidArgument beyond the limit.
std::string run_and_read(const std::vector<std::string>& arguments, std::size_t limit);

/// What a program said as one line that is safe on a terminal: no escape sequences, lines joined by "; ", and
/// the end of it where it is long.
std::string one_line(std::string_view said);

}  // namespace aerogel
