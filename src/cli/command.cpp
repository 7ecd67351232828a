// Ctrl-C, the warning about threads and the formatting of times.
#include "cli/command.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "aerogel/cancellation.h"
#include "aerogel/threads.h"
#include "cli/output.h"
#include "core/atomic_file.h"

namespace aerogel::cli {
namespace {

constexpr int kInterrupted = 130;
constexpr unsigned kGraceSeconds = 1;

// The three handlers call what is safe in a signal handler, and nothing else.
extern "C" void end_now(int) {
    constexpr std::string_view kMessage = "aerogel: interrupted\n";
    remove_temporary_files();
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, kMessage.data(), kMessage.size());
    ::_exit(kInterrupted);
}

void handle(int signal, void (*handler)(int)) {
    struct sigaction action {};
    action.sa_handler = handler;  // without SA_RESTART: what blocks may notice
    ::sigaction(signal, &action, nullptr);
}

extern "C" void on_interrupt(int) {
    request_cancellation();
    handle(SIGINT, SIG_DFL);
    handle(SIGTERM, SIG_DFL);
    handle(SIGALRM, end_now);
    ::alarm(kGraceSeconds);
}

}  // namespace

void catch_interrupts() {
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    ::pthread_sigmask(SIG_UNBLOCK, &alarm_only, nullptr);
    for (const int signal : {SIGINT, SIGTERM}) {
        struct sigaction before {};
        ::sigaction(signal, nullptr, &before);
        if (before.sa_handler != SIG_IGN) handle(signal, on_interrupt);
    }
}

bool interrupted() {
    return cancellation_requested();
}

int end_interrupted(std::string_view message) {
    ::alarm(0);
    print_error(message.starts_with("interrupted") ? message : "interrupted");
    return kInterrupted;
}

void warn_about_threads() {
    static bool told = false;
    const std::string shortage = thread_shortage();
    if (shortage.empty() || told) return;
    told = true;
    print_error("warning: " + shortage);
}

std::string show_seconds(double seconds) {
    if (seconds < 60.0) return fmt::format("{:.2f} s", seconds);
    const auto whole = static_cast<std::int64_t>(seconds);
    return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::int64_t peak_memory_bytes() {
    // Of this program alone: getrusage() would count the program that started it as well.
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
    }
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return std::int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace aerogel::cli
