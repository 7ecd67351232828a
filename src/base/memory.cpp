// sysinfo(), RLIMIT_AS and cgroup v2.
#include "base/memory.h"

#include <sys/resource.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <fstream>
#include <limits>

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

// As a container sees its own group; "max" is no number.
std::uint64_t group_bytes() {
    std::ifstream file("/sys/fs/cgroup/memory.max");
    std::uint64_t bytes = 0;
    return file >> bytes ? bytes : kUnlimited;
}

}  // namespace

std::uint64_t usable_memory_bytes() {
    return std::min({machine_bytes(), process_bytes(), group_bytes()});
}

}  // namespace aerogel
