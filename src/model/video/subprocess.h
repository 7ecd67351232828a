// Running another program (ffmpeg, ffprobe) with a pipe to its input or from its output; no shell.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace aerogel {

/// A program that reads what we write. Arguments[0] is looked up in PATH; its stderr is kept for the message.
class SubprocessWriter {
  public:
    /// Throws IoError when the program cannot be started.
    explicit SubprocessWriter(const std::vector<std::string>& arguments);
    /// Kills the program if finish() was not reached.
    ~SubprocessWriter();
    SubprocessWriter(const SubprocessWriter&) = delete;
    SubprocessWriter& operator=(const SubprocessWriter&) = delete;

    /// Throws IoError with the program's own message when it ended early.
    void write(std::span<const std::byte> bytes);
    /// Closes the pipe and waits; throws IoError on a failure exit.
    void finish();

  private:
    std::string name_;
    int process_ = -1;
    int input_ = -1;
    int messages_ = -1;
};

/// Everything the program prints. Throws IoError with its stderr when it fails.
std::string run_and_read(const std::vector<std::string>& arguments);

}  // namespace aerogel
