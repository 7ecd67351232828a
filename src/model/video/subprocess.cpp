// The child is started by vfork, because only code of its own can ask the kernel to end it with us;
// everything between vfork and exec is a plain system call on prepared memory.
#include "model/video/subprocess.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "aerogel/error.h"
#include "base/cancellation.h"
#include "core/text.h"

extern char** environ;

namespace aerogel {
namespace {

constexpr int kPollMilliseconds = 50;

// A descriptor that closes itself, above those of standard input, output and error.
class End {
  public:
    explicit End(int descriptor) : descriptor_(descriptor) {
        if (descriptor < 0 || descriptor > STDERR_FILENO) return;
        descriptor_ = ::fcntl(descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
        ::close(descriptor);
    }
    End(End&& other) noexcept : descriptor_(other.release()) {}
    End& operator=(End&&) = delete;
    ~End() {
        if (descriptor_ >= 0) ::close(descriptor_);
    }

    int get() const { return descriptor_; }
    int release() { return std::exchange(descriptor_, -1); }

  private:
    int descriptor_;
};

struct Channel {
    End ours;
    End theirs;
};

[[noreturn]] void fail_to(const char* what) {
    throw IoError(fmt::format("[subprocess] cannot {}: {}", what, std::strerror(errno)));
}

// A socket for what the child reads, because a write to a pipe without reader raises SIGPIPE in the whole
// process.
Channel make_input() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) fail_to("make a socket");
    return {End(ends[0]), End(ends[1])};
}

Channel make_output() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail_to("make a pipe");
    Channel made{End(ends[0]), End(ends[1])};
    ::fcntl(made.ours.get(), F_SETFL, O_NONBLOCK);
    return made;
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
    std::vector<char*> out;
    for (const std::string& string : strings) out.push_back(const_cast<char*>(string.c_str()));
    return out;
}

struct Launch {
    char* const* arguments;
    char* const* environment;
    std::array<int, 3> ends;  // of standard input, output and error
    pid_t parent;
};

// In the child, which still shares all memory with the waiting parent.
int become(const Launch& launch) {
    ::setpgid(0, 0);  // Ctrl-C is ours, and what the program starts ends with it
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != launch.parent) return ESRCH;
    struct sigaction as_usual {};
    as_usual.sa_handler = SIG_DFL;
    for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &as_usual, nullptr);
    for (int i = 0; i < 3; ++i) {
        if (::dup2(launch.ends.at(static_cast<std::size_t>(i)), i) < 0) return errno;
    }
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execvpe(launch.arguments[0], launch.arguments, launch.environment);
    return errno;
}

// Returns the process, or minus errno. No signal handler may run while two processes share the memory.
[[gnu::noinline]] pid_t start(const Launch& launch) {
    sigset_t all, before;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    volatile int error = 0;
    const pid_t process = ::vfork();  // NOLINT(clang-analyzer-security.insecureAPI.vfork)
    if (process == 0) {
        error = become(launch);
        ::_exit(127);
    }
    const int failed = process < 0 ? errno : error;
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (failed == 0) return process;
    if (process > 0) ::waitpid(process, nullptr, 0);
    return -failed;
}

[[noreturn]] void fail_to_start(const std::string& name, int error) {
    throw IoError(fmt::format("[subprocess] cannot start '{}': {} (is it installed and in PATH?)", name,
                              std::strerror(error)));
}

pid_t spawn(const std::vector<std::string>& arguments, const std::array<int, 3>& ends) {
    std::vector<char*> argv = pointers(arguments);
    argv.push_back(nullptr);
    std::string plain = "AV_LOG_FORCE_NOCOLOR=1";
    std::vector<char*> environment = {plain.data()};
    for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable)
        environment.push_back(*variable);
    environment.push_back(nullptr);
    const pid_t process = start({argv.data(), environment.data(), ends, ::getpid()});
    if (process < 0) fail_to_start(arguments.front(), -process);
    return process;
}

// ESC [ ... letter, or ESC and one character.
std::size_t escape_bytes(std::string_view text) {
    std::size_t size = std::min<std::size_t>(2, text.size());
    if (size < 2 || text[1] != '[') return size;
    while (size < text.size() && text[size] >= 0x20 && text[size] < 0x40) ++size;
    return std::min(size + 1, text.size());
}

}  // namespace

std::string one_line(std::string_view said) {
    constexpr std::size_t kMost = 600;
    std::string line;
    bool ended = false;
    while (!said.empty()) {
        const char first = said.front();
        if (first == '\n' || first == '\r') {
            ended = !line.empty();
            said.remove_prefix(1);
            continue;
        }
        if (first == '\x1b') {
            said.remove_prefix(escape_bytes(said));
            continue;
        }
        if (std::exchange(ended, false)) line += "; ";
        const auto [code, size] = first_character(said);
        const bool control = size == 0 || code < 0x20 || (code >= 0x7F && code < 0xA0);
        line += control ? std::string_view("?") : said.substr(0, size);
        said.remove_prefix(std::max<std::size_t>(size, 1));
    }
    if (line.empty()) return "it printed no message";
    if (line.size() <= kMost) return line;
    std::size_t from = line.size() - kMost;
    while (from < line.size() && (static_cast<unsigned char>(line[from]) & 0xC0U) == 0x80U) ++from;
    return "..." + line.substr(from);
}

Subprocess::Subprocess(Options options) : name_(options.arguments.at(0)), patience_(options.patience) {
    Channel messages = make_output();
    Channel data = options.reads ? make_input() : make_output();
    const End nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const int input = options.reads ? data.theirs.get() : nothing.get();
    const int output = options.reads ? messages.theirs.get() : data.theirs.get();
    process_ = spawn(options.arguments, {input, output, messages.theirs.get()});
    data_ = data.ours.release();
    messages_ = messages.ours.release();
}

Subprocess::~Subprocess() {
    end();
    if (data_ >= 0) ::close(data_);
    ::close(messages_);
}

void Subprocess::take_messages() {
    constexpr std::size_t kKept = 4096;
    std::array<char, 4096> chunk{};
    while (messages_ >= 0) {
        const ssize_t got = ::read(messages_, chunk.data(), chunk.size());
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        said_.append(chunk.data(), static_cast<std::size_t>(got));
        if (said_.size() > kKept) said_.erase(0, said_.size() - kKept);
    }
}

bool Subprocess::exited() const {
    siginfo_t info{};
    if (::waitid(P_PID, static_cast<id_t>(process_), &info, WEXITED | WNOHANG | WNOWAIT) != 0) return true;
    return info.si_pid == process_;
}

// Kills what is left of the program and of what it started; true when it had succeeded by itself.
bool Subprocess::end() {
    if (process_ < 0) return false;
    const pid_t process = std::exchange(process_, -1);
    ::kill(-process, SIGKILL);
    int status = 0;
    pid_t found = -1;
    do found = ::waitpid(process, &status, 0);
    while (found < 0 && errno == EINTR);
    take_messages();
    return found == process && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void Subprocess::fail(const std::string& what) {
    end();
    throw IoError(fmt::format("[{}] {}: {}", name_, what, one_line(said_)));
}

// Returns when `end` is ready, or when the program has exited and nothing comes any more. -1: the exit alone.
void Subprocess::wait_for(int end, short events) {
    while (true) {
        std::array<pollfd, 2> ends = {{{end, events, 0}, {messages_, POLLIN, 0}}};
        const bool gone = exited();
        const int ready = ::poll(ends.data(), ends.size(), gone ? 0 : kPollMilliseconds);
        take_messages();
        if (ready > 0 && ends[0].revents != 0) {
            moved_ = Clock::now();
            return;
        }
        if (gone) return;
        stop_if_cancelled();
        if (ready > 0) ::poll(nullptr, 0, 1);  // closed messages are always ready
        if (seconds_since(moved_) > patience_)
            fail(fmt::format("made no progress for {:g} s and was stopped", patience_));
    }
}

void Subprocess::write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t sent = ::send(data_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            moved_ = Clock::now();
            bytes = bytes.subspan(static_cast<std::size_t>(sent));
            stop_if_cancelled();
        } else if (errno == EAGAIN) {
            if (exited()) fail("ended early");  // something that it started still holds the other end
            wait_for(data_, POLLOUT);
        } else if (errno != EINTR) {
            for (int i = 0; i < 20 && !exited(); ++i)
                ::poll(nullptr, 0, kPollMilliseconds);  // for its last words
            fail("ended early");
        }
    }
}

std::size_t Subprocess::read(std::span<std::byte> to) {
    while (true) {
        const bool gone = exited();
        const ssize_t got = ::read(data_, to.data(), to.size());
        if (got >= 0) {
            moved_ = Clock::now();
            stop_if_cancelled();
            return static_cast<std::size_t>(got);
        }
        if (errno == EAGAIN) {
            if (gone) return 0;
            wait_for(data_, POLLIN);
        } else if (errno != EINTR) {
            fail(std::string("cannot be read: ") + std::strerror(errno));
        }
    }
}

void Subprocess::finish() {
    ::close(std::exchange(data_, -1));
    moved_ = Clock::now();  // encoders do much of their work now
    while (!exited()) wait_for(-1, 0);
    if (!end()) fail("failed");
}

// Looks where execvp() does.
void check_program(const std::string& name) {
    const char* const told = std::getenv("PATH");
    std::string_view rest = told == nullptr ? "/bin:/usr/bin" : told;
    while (true) {
        const std::size_t end = std::min(rest.find(':'), rest.size());
        const std::filesystem::path program = std::filesystem::path(rest.substr(0, end)) / name;
        if (::access(program.c_str(), X_OK) == 0) return;
        if (end == rest.size()) fail_to_start(name, ENOENT);
        rest.remove_prefix(end + 1);
    }
}

std::string run_and_read(const std::vector<std::string>& arguments, std::size_t limit) {
    Subprocess program({arguments});
    std::string text;
    std::array<std::byte, 65536> chunk{};
    while (const std::size_t got = program.read(chunk)) {
        text.append(reinterpret_cast<const char*>(chunk.data()), got);
        if (text.size() > limit)
            throw InvalidArgument(fmt::format("[{}] printed more than {} bytes", arguments.front(), limit));
    }
    program.finish();
    return text;
}

}  // namespace aerogel
