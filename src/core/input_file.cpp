// POSIX calls behind InputFile.
#include "core/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "aerogel/error.h"

namespace aerogel {
namespace {

std::string reason(const char* what, int error) {
    return "cannot " + std::string(what) + ": " + std::generic_category().message(error);
}

// What a file that is not regular is, or an empty string.
std::string oddity(mode_t mode) {
    if (S_ISREG(mode)) return "";
    if (S_ISDIR(mode)) return "is a folder, not a file";
    if (S_ISFIFO(mode)) return "is a named pipe, not a regular file";
    if (S_ISSOCK(mode)) return "is a socket, not a regular file";
    if (S_ISCHR(mode) || S_ISBLK(mode)) return "is a device, not a regular file";
    return "is not a regular file";
}

}  // namespace

InputFile::InputFile(std::filesystem::path path, std::string_view op) : path_(std::move(path)), op_(op) {
    // Non-blocking, so that a named pipe is refused instead of waited for.
    descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    const int error = errno;
    struct stat status = {};
    // A socket cannot be opened at all; what it is says more than why.
    const bool known =
        descriptor_ < 0 ? ::stat(path_.c_str(), &status) == 0 : ::fstat(descriptor_, &status) == 0;
    const std::string odd = known ? oddity(status.st_mode) : "";
    if (descriptor_ >= 0 && known && odd.empty()) return;
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
    fail(odd.empty() ? reason("open", error) : odd);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)),
      op_(std::move(other.op_)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

InputFile::~InputFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

std::uint64_t InputFile::size() const {
    struct stat status = {};
    if (::fstat(descriptor_, &status) != 0) fail(reason("read its size", errno));
    return static_cast<std::uint64_t>(status.st_size);
}

std::string InputFile::read_all(std::size_t limit) const {
    constexpr std::size_t kBlock = std::size_t{1} << 16;
    const auto refuse = [&] {
        throw InvalidArgument("[" + op_ + "] " + path_.string() + ": must be at most " +
                              std::to_string(limit) + " bytes long");
    };
    const std::uint64_t announced = size();
    if (announced > limit) refuse();
    std::string text;
    std::size_t end = 0;
    while (true) {
        if (text.size() < end + kBlock) text.resize(std::max(2 * end, end + kBlock));
        const ssize_t got =
            ::pread(descriptor_, text.data() + end, text.size() - end, static_cast<off_t>(end));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail(reason("read", errno));
        if (got == 0) break;
        end += static_cast<std::size_t>(got);
        if (end > limit) refuse();
    }
    text.resize(end);
    return text;
}

void InputFile::fail(const std::string& what) const {
    throw IoError("[" + op_ + "] " + path_.string() + ": " + what);
}

std::string read_text_file(const std::filesystem::path& path, std::string_view op, std::size_t limit) {
    return InputFile(path, op).read_all(limit);
}

}  // namespace aerogel
