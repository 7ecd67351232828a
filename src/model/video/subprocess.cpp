// posix_spawn with pipes. Messages of the program go to an unlinked temporary file, so that a
// talkative program can never block on a full pipe.
#include "model/video/subprocess.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "aerogel/error.h"

extern char** environ;

namespace aerogel {
namespace {

struct Pipe {
    int read = -1;
    int write = -1;
};

Pipe make_pipe() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0)
        throw IoError(std::string("[subprocess] pipe: ") + std::strerror(errno));
    return {ends[0], ends[1]};
}

int make_message_file() {
    std::string name = "/tmp/aerogel-messages-XXXXXX";
    const int file = mkostemp(name.data(), O_CLOEXEC);
    if (file < 0) throw IoError(std::string("[subprocess] ") + name + ": " + std::strerror(errno));
    unlink(name.c_str());
    return file;
}

pid_t spawn(const std::vector<std::string>& arguments, int input, int output, int messages) {
    std::vector<char*> argv;
    for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (input >= 0)
        posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
    else
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (output >= 0) posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, messages, STDERR_FILENO);
    pid_t process = -1;
    const int error = posix_spawnp(&process, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        throw IoError("[subprocess] cannot start '" + arguments.front() + "': " + std::strerror(error) +
                      " (is it installed and in PATH?)");
    }
    return process;
}

std::string last_lines(int messages) {
    constexpr off_t kMost = 600;
    const off_t size = lseek(messages, 0, SEEK_END);
    const off_t from = size > kMost ? size - kMost : 0;
    std::string text(static_cast<std::size_t>(size - from), '\0');
    const ssize_t got = pread(messages, text.data(), text.size(), from);
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
}

bool wait_for_success(pid_t process) {
    int status = 0;
    while (waitpid(process, &status, 0) < 0) {
        if (errno != EINTR) return false;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

SubprocessWriter::SubprocessWriter(const std::vector<std::string>& arguments) : name_(arguments.at(0)) {
    signal(SIGPIPE, SIG_IGN);  // a program that ends early is an error message, not our end
    messages_ = make_message_file();
    const Pipe pipe = make_pipe();
    input_ = pipe.write;
    try {
        process_ = spawn(arguments, pipe.read, messages_, messages_);
    } catch (...) {
        close(pipe.read);
        close(pipe.write);
        close(messages_);
        throw;
    }
    close(pipe.read);
}

SubprocessWriter::~SubprocessWriter() {
    if (input_ >= 0) close(input_);
    if (process_ > 0) {
        kill(process_, SIGKILL);
        wait_for_success(process_);
    }
    close(messages_);
}

void SubprocessWriter::write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t written = ::write(input_, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) throw IoError("[" + name_ + "] ended early: " + last_lines(messages_));
        bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
}

void SubprocessWriter::finish() {
    close(input_);
    input_ = -1;
    const pid_t process = process_;
    process_ = -1;
    if (!wait_for_success(process)) throw IoError("[" + name_ + "] failed: " + last_lines(messages_));
}

std::string run_and_read(const std::vector<std::string>& arguments) {
    const int messages = make_message_file();
    const Pipe pipe = make_pipe();
    pid_t process = -1;
    try {
        process = spawn(arguments, -1, pipe.write, messages);
    } catch (...) {
        close(pipe.read);
        close(pipe.write);
        close(messages);
        throw;
    }
    close(pipe.write);
    std::string text;
    std::array<char, 65536> chunk{};
    while (true) {
        const ssize_t got = read(pipe.read, chunk.data(), chunk.size());
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        text.append(chunk.data(), static_cast<std::size_t>(got));
    }
    close(pipe.read);
    const bool success = wait_for_success(process);
    const std::string said = last_lines(messages);
    close(messages);
    if (!success) throw IoError("[" + arguments.front() + "] failed: " + said);
    return text;
}

}  // namespace aerogel
