// Prints what the library made of its environment variables, or its complaint (exit code 1).
#include <atomic>
#include <cstdio>
#include <exception>

#include "aerogel/threads.h"
#include "base/cpu_features.h"
#include "base/log.h"
#include "base/thread_pool.h"

int main() {
    try {
        using namespace aerogel;
        const int threads = num_threads();
        std::atomic<int> tasks{0};
        parallel_for(100, [&](std::int64_t, int) { ++tasks; });
        log_line(LogTopic::dispatch, "one line");
        std::printf("level=%s detected=%s threads=%d tasks=%d log=%d\n", to_string(cpu_level()).data(),
                    to_string(detected_cpu_level()).data(), threads, tasks.load(),
                    log_enabled(LogTopic::dispatch) ? 1 : 0);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
