// sysinfo(), RLIMIT_AS and control groups; madvise(), malloc_trim(); reading to empty the caches.
#include "base/memory.h"

#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "aerogel/threads.h"
#include "base/thread_pool.h"

namespace aerogel {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

std::uint64_t machine_bytes() {
    struct sysinfo info = {};
    if (::sysinfo(&info) != 0) return kUnlimited;
    return (static_cast<std::uint64_t>(info.totalram) + info.totalswap) * info.mem_unit;
}

std::uint64_t process_bytes() {
    rlimit limit = {};
    const bool limited = ::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    return limited ? limit.rlim_cur : kUnlimited;
}

// "max" is no number.
std::uint64_t number_in(const std::filesystem::path& file) {
    std::ifstream in(file);
    std::uint64_t number = 0;
    return in >> number ? number : kUnlimited;
}

// Groups that a container does not see, because its own is mounted as the root, have no files.
std::uint64_t least_up_to_the_root(const std::filesystem::path& root, std::string group, const char* file) {
    std::uint64_t least = number_in(root / file);
    while (group.size() > 1) {
        least = std::min(least, number_in(root / group.substr(1) / file));
        group.resize(group.rfind('/'));
    }
    return least;
}

void advise_whole_pages(void* at, std::size_t bytes, std::uintptr_t page, int advice) {
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    const std::uintptr_t from = (address + page - 1) / page * page, to = (address + bytes) / page * page;
    if (from < to) madvise(static_cast<std::byte*>(at) + (from - address), to - from, advice);
}

}  // namespace

// A line is "id:controllers:/group": version 2 has no controllers, and "unified" where both are mounted.
std::uint64_t group_memory_bytes(const std::filesystem::path& groups,
                                 const std::filesystem::path& of_process) {
    std::uint64_t least = number_in(groups / "memory.max");
    std::ifstream lines(of_process);
    for (std::string line; std::getline(lines, line);) {
        const std::size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos || line[second + 1] != '/') continue;
        const std::string controllers = line.substr(first + 1, second - first - 1),
                          group = line.substr(second + 1);
        if (controllers.empty())
            for (const auto& root : {groups, groups / "unified"})
                least = std::min(least, least_up_to_the_root(root, group, "memory.max"));
        if (("," + controllers + ",").find(",memory,") != std::string::npos)
            least = std::min(least, least_up_to_the_root(groups / "memory", group, "memory.limit_in_bytes"));
    }
    return least;
}

std::uint64_t usable_memory_bytes() {
    return std::min({machine_bytes(), process_bytes(), group_memory_bytes()});
}

void prefer_huge_pages(void* at, std::size_t bytes) noexcept {
    if (bytes >= kLeastHuge) advise_whole_pages(at, bytes, 4096, MADV_HUGEPAGE);
}

// Huge pages are lent as a whole, since the system would break them up.
void lend_to_system(void* at, std::size_t bytes) noexcept {
    advise_whole_pages(at, bytes, bytes >= kLeastHuge ? std::uintptr_t{2} << 20 : 4096, MADV_FREE);
}

void return_freed_memory() noexcept {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

std::int64_t cache_bytes() {
    const std::int64_t told = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return told > 0 ? told : std::int64_t{64} << 20;
}

void empty_caches() {
    static const std::vector<std::int64_t> memory(static_cast<std::size_t>(cache_bytes()) / 4, 1);
    static std::atomic<std::int64_t> kept = 0;  // the sums must be wanted
    const std::int64_t threads = num_threads();
    const auto each = static_cast<std::int64_t>(memory.size()) / threads;
    parallel_for(threads, [&](std::int64_t task, int) {
        std::int64_t sum = 0;
        for (std::int64_t i = task * each; i < (task + 1) * each; ++i)
            sum += memory[static_cast<std::size_t>(i)];
        kept += sum;
    });
}

}  // namespace aerogel
