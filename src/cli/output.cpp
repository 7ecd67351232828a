// Escapes, the C streams behind everything printed, and the progress bar.
#include "cli/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <system_error>

#include "aerogel/error.h"
#include "aerogel/threads.h"
#include "cli/command.h"
#include "core/text.h"

namespace aerogel::cli {
namespace {

// A bar stands on the last line of the terminal; what is said meanwhile takes its place.
bool bar_is_open = false;

bool steers_terminals(std::uint32_t code) {
    const bool control = code < 0x20 || (code >= 0x7F && code < 0xA0);
    const bool line = code == 0x2028 || code == 0x2029;
    return control || line || (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
}

// Every character of `text` that show(code) wants shown, and every byte that is none, as an escape; `form` is
// that of characters below 256.
template <typename Show>
std::string escaped(std::string_view text, fmt::string_view form, const Show& show) {
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
        const Character next = first_character(text);
        if (next.bytes == 0) {
            out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text.front()));
        } else if (show(next.code)) {
            out += next.code < 0x100 ? fmt::format(fmt::runtime(form), next.code)
                                     : fmt::format("\\u{:04x}", next.code);
        } else {
            out += text.substr(0, next.bytes);
        }
        text.remove_prefix(next.bytes == 0 ? 1 : next.bytes);
    }
    return out;
}

[[noreturn]] void fail() {
    const int error = errno;
    if (error == EPIPE) {  // nobody reads on: end as a program that never heard of SIGPIPE
        std::signal(SIGPIPE, SIG_DFL);
        std::raise(SIGPIPE);
    }
    throw IoError("[write] cannot print: " + std::generic_category().message(error));
}

void print(std::string_view text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) fail();
    if (std::fputc('\n', stdout) == EOF) fail();
}

}  // namespace

std::string for_terminal(std::string_view text) {
    return escaped(text, "\\x{:02x}",
                   [](std::uint32_t code) { return code != '\n' && code != '\t' && steers_terminals(code); });
}

void print_text(std::string_view text) {
    print(for_terminal(text));
}

void print_json(const nlohmann::ordered_json& json) {
    const std::string text = json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    print(escaped(text, "\\u{:04x}",
                  [](std::uint32_t code) { return code != '\n' && steers_terminals(code); }));
}

void print_error(std::string_view message) {
    while (message.ends_with('\n')) message.remove_suffix(1);
    const std::string line = escaped(message, "\\x{:02x}", steers_terminals);
    std::fputs(((bar_is_open ? "\r\x1b[Kaerogel: " : "aerogel: ") + line + "\n").c_str(), stderr);
}

// Opened the wrong way round, so that using them still fails.
void prepare_output() {
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (::fcntl(stream, F_GETFD) != -1) continue;
        const int mode = stream == STDIN_FILENO ? O_WRONLY : O_RDONLY;
        if (::open("/dev/null", mode) < 0) return;
    }
    std::signal(SIGXFSZ, SIG_IGN);
    std::signal(SIGCHLD, SIG_DFL);  // ignored, it would hide how a program that we started ended
}

void finish_output() {
    if (std::fflush(stdout) != 0) fail();
    if (std::ferror(stdout) == 0) return;
    errno = EIO;  // why, an earlier call knew
    fail();
}

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
    bar_is_open = false;
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
    bar_is_open = true;
}

}  // namespace aerogel::cli
