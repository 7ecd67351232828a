// Preloaded into a program under test: counts its file-system calls in one folder and lets the N-th go wrong.
//   FAULT_FOLDER  calls on paths in it, and on what was opened there, count
//   FAULT_PROGRAM and only those of the program of this name, of those that inherit the preload
//   FAULT_AT      N from 1 on; 0: none
//   FAULT_KIND    an error number, "short" (half of a read or write), "kill" (before the call),
//                 or "run" (runs FAULT_COMMAND in a shell before the call)
//   FAULT_LOG     a file that gets a line per call: its name, and its path if it has one
// A failing fallocate() takes half of the space first, as file systems do.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

constexpr int kMostFiles = 4096;
std::array<std::atomic<bool>, kMostFiles> inside;
std::atomic<int> calls{0};

const char* setting(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

template <typename Function>
Function real(const char* name) {
    return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

bool is_inside(const char* path) {
    static const std::string folder = setting("FAULT_FOLDER");
    static const bool meant = program_invocation_short_name == std::string(setting("FAULT_PROGRAM"));
    return meant && !folder.empty() && path != nullptr &&
           std::strncmp(path, folder.c_str(), folder.size()) == 0;
}

bool is_inside(int file) {
    return file >= 0 && file < kMostFiles && inside[static_cast<std::size_t>(file)];
}

int remember(int file, bool is_in) {
    if (file >= 0 && file < kMostFiles) inside[static_cast<std::size_t>(file)] = is_in;
    return file;
}

void log_call(const char* name, const char* path) {
    static const int log = static_cast<int>(
        syscall(SYS_openat, AT_FDCWD, setting("FAULT_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666));
    if (log < 0) return;
    const std::string line =
        std::string(name) + (path == nullptr ? "" : " ") + (path == nullptr ? "" : path) + "\n";
    syscall(SYS_write, log, line.data(), line.size());
}

void run_command() {
    unsetenv("LD_PRELOAD");
    if (std::system(setting("FAULT_COMMAND")) != 0) _exit(99);
}

enum class Fate { call, fail, half };

// What becomes of this call; sets errno for Fate::fail.
Fate fate(const char* name, const char* path = nullptr) {
    static const int at = std::atoi(setting("FAULT_AT"));
    static const std::string kind = setting("FAULT_KIND");
    log_call(name, path);
    if (++calls != at) return Fate::call;
    if (kind == "kill") {
        kill(getpid(), SIGKILL);
        pause();
    }
    if (kind == "short") return Fate::half;
    if (kind == "run") {
        run_command();
        return Fate::call;
    }
    errno = std::atoi(kind.c_str());
    return Fate::fail;
}

// open() in all its forms.
template <typename Call>
int open_with(const char* name, const char* path, const Call& call) {
    if (!is_inside(path)) return remember(call(), false);
    if (fate(name, path) == Fate::fail) return -1;
    return remember(call(), true);
}

mode_t mode_of(int flags, va_list arguments) {
    const bool has_mode = (flags & (O_CREAT | O_TMPFILE)) != 0;
    return has_mode ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
}

template <typename Call>
ssize_t move_bytes(const char* name, int file, std::size_t size, const Call& call) {
    if (!is_inside(file)) return call(size);
    switch (fate(name)) {
        case Fate::fail:
            return -1;
        case Fate::half:
            return call(size > 1 ? size / 2 : size);
        default:
            return call(size);
    }
}

template <typename Call>
int call_on(const char* name, int file, const Call& call) {
    return is_inside(file) && fate(name) == Fate::fail ? -1 : call();
}

template <typename Call>
int call_on(const char* name, const char* path, const Call& call) {
    return is_inside(path) && fate(name, path) == Fate::fail ? -1 : call();
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    return open_with("open", path,
                     [&] { return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode)); });
}

int open64(const char* path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    return open(path, flags, mode);
}

int openat(int folder, const char* path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    return open_with("openat", path,
                     [&] { return static_cast<int>(syscall(SYS_openat, folder, path, flags, mode)); });
}

FILE* fopen(const char* path, const char* mode) {
    if (is_inside(path) && fate("fopen", path) == Fate::fail) return nullptr;
    return real<FILE* (*)(const char*, const char*)>("fopen")(path, mode);
}

FILE* fopen64(const char* path, const char* mode) {
    return fopen(path, mode);
}

int close(int file) {
    const bool was_inside = is_inside(file);
    remember(file, false);
    const auto call = [&] { return static_cast<int>(syscall(SYS_close, file)); };
    if (!was_inside || fate("close") != Fate::fail) return call();
    const int error = errno;
    call();
    errno = error;
    return -1;
}

ssize_t read(int file, void* data, size_t size) {
    return move_bytes("read", file, size, [&](std::size_t n) { return syscall(SYS_read, file, data, n); });
}

ssize_t write(int file, const void* data, size_t size) {
    return move_bytes("write", file, size, [&](std::size_t n) { return syscall(SYS_write, file, data, n); });
}

ssize_t pread(int file, void* data, size_t size, off_t at) {
    return move_bytes("pread", file, size,
                      [&](std::size_t n) { return syscall(SYS_pread64, file, data, n, at); });
}

ssize_t pread64(int file, void* data, size_t size, off_t at) {
    return pread(file, data, size, at);
}

ssize_t pwrite(int file, const void* data, size_t size, off_t at) {
    return move_bytes("pwrite", file, size,
                      [&](std::size_t n) { return syscall(SYS_pwrite64, file, data, n, at); });
}

ssize_t pwrite64(int file, const void* data, size_t size, off_t at) {
    return pwrite(file, data, size, at);
}

int ftruncate(int file, off_t size) noexcept {
    return call_on("ftruncate", file, [&] { return static_cast<int>(syscall(SYS_ftruncate, file, size)); });
}

int ftruncate64(int file, off_t size) noexcept {
    return ftruncate(file, size);
}

int fallocate(int file, int mode, off_t begin, off_t size) {
    const auto call = [&](off_t n) { return static_cast<int>(syscall(SYS_fallocate, file, mode, begin, n)); };
    if (!is_inside(file) || fate("fallocate") != Fate::fail) return call(size);
    const int error = errno;
    if (error == ENOSPC) call(size / 2);
    errno = error;
    return -1;
}

int fallocate64(int file, int mode, off_t begin, off_t size) {
    return fallocate(file, mode, begin, size);
}

int fsync(int file) {
    return call_on("fsync", file, [&] { return static_cast<int>(syscall(SYS_fsync, file)); });
}

int flock(int file, int operation) noexcept {
    return call_on("flock", file, [&] { return static_cast<int>(syscall(SYS_flock, file, operation)); });
}

int rename(const char* from, const char* to) noexcept {
    return call_on("rename", from, [&] { return static_cast<int>(syscall(SYS_rename, from, to)); });
}

int unlink(const char* path) noexcept {
    return call_on("unlink", path, [&] { return static_cast<int>(syscall(SYS_unlink, path)); });
}

int mkdir(const char* path, mode_t mode) noexcept {
    return call_on("mkdir", path, [&] { return static_cast<int>(syscall(SYS_mkdir, path, mode)); });
}

void* mmap(void* where, size_t size, int protection, int flags, int file, off_t begin) noexcept {
    if (is_inside(file) && fate("mmap") == Fate::fail) return MAP_FAILED;
    return reinterpret_cast<void*>(syscall(SYS_mmap, where, size, protection, flags, file, begin));
}

void* mmap64(void* where, size_t size, int protection, int flags, int file, off_t begin) noexcept {
    return mmap(where, size, protection, flags, file, begin);
}

}  // extern "C"
