// POSIX calls behind MappedFile. The guard's handler runs between any two instructions of any thread: it
// looks through a fixed table of atomics and calls mmap() and sigaction(), nothing else.
#include "core/mapped_file.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>

#include "aerogel/error.h"
#include "base/fork.h"

namespace aerogel {

struct MappingGuard::Slot {
    std::atomic<std::uintptr_t> begin{0};  // 0: free
    std::atomic<std::uintptr_t> end{0};
    std::atomic<bool> damaged{false};
};

namespace {

using Slot = MappingGuard::Slot;

constexpr std::size_t kSlots = 4096;

std::array<Slot, kSlots>& slots() {
    static std::array<Slot, kSlots> table;
    return table;
}

// Of mapping and unmapping, never taken in the handler.
std::mutex& table_mutex() {
    static PerProcess<std::mutex> mutex;
    return mutex.get();
}

std::size_t guarded = 0;  // slots in use, under the mutex
std::size_t page_size = 0;
struct sigaction previous = {};

struct GuardedPlace {
    Slot* slot;
    std::uintptr_t end;
};

// A slot may be given to another file between two loads: its begin is looked at once more.
std::optional<GuardedPlace> place_of(std::uintptr_t address) {
    for (Slot& slot : slots()) {
        const std::uintptr_t begin = slot.begin.load();
        const std::uintptr_t end = slot.end.load();
        const bool inside = begin != 0 && begin <= address && address < end;
        if (inside && slot.begin.load() == begin) return GuardedPlace{&slot, end};
    }
    return std::nullopt;
}

// Zeros instead of the rest of the range, so that the instruction that failed can be repeated. What lies
// before is still the file's.
bool mend(const GuardedPlace& place, std::uintptr_t address) {
    const std::uintptr_t first = address / page_size * page_size;
    void* zeros = ::mmap(reinterpret_cast<void*>(first), place.end - first, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    place.slot->damaged = true;
    return zeros != MAP_FAILED;
}

// As if ours were not there.
void pass_on(int signal, siginfo_t* info, void* context) {
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
        previous.sa_sigaction(signal, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(signal);
    } else if (previous.sa_handler == SIG_DFL || info->si_code > 0) {
        // The instruction is repeated, or the signal sent again, and ends the process.
        struct sigaction standard = {};
        standard.sa_handler = SIG_DFL;
        ::sigaction(signal, &standard, nullptr);
        if (info->si_code <= 0) ::raise(signal);
    }
}

extern "C" void on_bus_error(int signal, siginfo_t* info, void* context) {
    const int error = errno;
    // A positive code comes from the system, about the address.
    if (info->si_code > 0) {
        const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
        const std::optional<GuardedPlace> place = place_of(address);
        if (place && mend(*place, address)) {
            errno = error;
            return;
        }
    }
    pass_on(signal, info, context);
    errno = error;
}

bool is_ours(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == on_bus_error;
}

void set_handler() {
    page_size = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    struct sigaction now = {};
    ::sigaction(SIGBUS, nullptr, &now);
    if (is_ours(now)) return;  // left behind by somebody who put it aside and back
    struct sigaction own = {};
    own.sa_sigaction = on_bus_error;
    own.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    ::sigemptyset(&own.sa_mask);
    previous = now;
    ::sigaction(SIGBUS, &own, nullptr);
}

void put_handler_back() {
    struct sigaction now = {};
    ::sigaction(SIGBUS, nullptr, &now);
    if (is_ours(now)) ::sigaction(SIGBUS, &previous, nullptr);
}

}  // namespace

MappingGuard::MappingGuard(const std::byte* data, std::size_t size) {
    const std::scoped_lock lock(table_mutex());
    for (Slot& slot : slots()) {
        if (slot.begin.load() != 0) continue;
        if (guarded++ == 0) set_handler();
        slot.damaged = false;
        slot.end = reinterpret_cast<std::uintptr_t>(data) + (size + page_size - 1) / page_size * page_size;
        slot.begin = reinterpret_cast<std::uintptr_t>(data);
        slot_ = &slot;
        return;
    }
}

MappingGuard::~MappingGuard() {
    if (slot_ == nullptr) return;
    const std::scoped_lock lock(table_mutex());
    slot_->begin = 0;
    if (--guarded == 0) put_handler_back();
}

bool MappingGuard::damaged() const {
    return slot_ != nullptr && slot_->damaged.load();
}

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
    std::shared_ptr<MappedFile> mapped(new MappedFile(InputFile(path, "read")));
    mapped->size_ = static_cast<std::size_t>(mapped->file_.size());
    if (mapped->size_ == 0) return mapped;  // nothing to map; the parser says what is wrong
    // Writable, so that whoever edits an array of a layer gets a copy of the page instead of a signal.
    void* data = ::mmap(nullptr, mapped->size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                        mapped->file_.descriptor(), 0);
    if (data == MAP_FAILED) {
        throw IoError("[read] " + path.string() + ": cannot map: " + std::generic_category().message(errno));
    }
    mapped->data_ = static_cast<std::byte*>(data);
    mapped->guard_.emplace(mapped->data_, mapped->size_);
    return mapped;
}

void MappedFile::check_intact() const {
    const std::uint64_t now = file_.size();
    if (now >= size_ && !(guard_ && guard_->damaged())) return;
    const std::string path = "[read] " + file_.path().string();
    if (now >= size_) throw IoError(path + ": a part of it could not be read from the disk");
    throw IoError(path + ": was shortened while it was read: it had " + std::to_string(size_) +
                  " bytes, now " + std::to_string(now));
}

void MappedFile::read_ahead(std::size_t begin, std::size_t size) const {
    if (size != 0) advise(begin, size, MADV_WILLNEED);
}

// The pages at both ends may belong to neighbours too; those are read again when touched.
void MappedFile::release(std::size_t begin, std::size_t size) const {
    if (size != 0) advise(begin, size, MADV_DONTNEED);
}

// Only hints: failure changes nothing.
void MappedFile::advise(std::size_t begin, std::size_t size, int advice) const {
    const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t first = begin / page * page;
    ::madvise(data_ + first, begin + size - first, advice);
}

MappedFile::~MappedFile() {
    guard_.reset();  // before another mapping may take the addresses
    if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace aerogel
