// interrupted_work STAGE FOLDER: does for ever what a subcommand does in one of its stages, the way main()
// calls it, and says "ready" on stdout first: `read` of a pipe that nobody fills, a `loop` that asks nobody,
// `write` of a file, a `kernel`.
#include <fmt/format.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "aerogel/cancellation.h"
#include "base/thread_pool.h"
#include "cli/command.h"
#include "core/atomic_file.h"

namespace {

void ready() {
    std::puts("ready");
    std::fflush(stdout);
}

std::atomic<std::uint64_t> rounds{0};

void loop_for_ever() {
    while (true) ++rounds;
}

void work(const std::string& stage, const std::filesystem::path& folder) {
    if (stage == "read") {
        ready();
        std::ifstream stream(folder / "pipe");
        std::string line;
        while (std::getline(stream, line)) ready();
        throw aerogel::IoError("the pipe ended");
    }
    if (stage == "write") {
        aerogel::AtomicFile file(folder / "result");
        file.write("half");
        ready();
        loop_for_ever();
    }
    if (stage == "kernel") {
        ready();
        aerogel::run_operation([] {
            aerogel::parallel_for(std::int64_t{1} << 50U, [](std::int64_t, int) {
                for (int i = 0; i < 100000; ++i) ++rounds;
            });
        });
    }
    ready();
    loop_for_ever();
}

}  // namespace

int main(int, char** arguments) {
    try {
        aerogel::cli::catch_interrupts();
        work(arguments[1], arguments[2]);
        return 0;
    } catch (const aerogel::Cancelled& error) {
        return aerogel::cli::end_interrupted(error.what());
    } catch (const std::exception& error) {
        if (aerogel::cli::interrupted()) return aerogel::cli::end_interrupted("");
        fmt::print(stderr, "{}\n", error.what());
        return 1;
    }
}
