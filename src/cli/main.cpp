// The command `aerogel`: one row per subcommand, and the one place where errors become exit codes:
// 0 done, 1 bad input or failure (one message on stderr), 130 interrupted.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "aerogel/cancellation.h"
#include "aerogel/version.h"
#include "base/cpu_features.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "cli/command.h"

namespace {

constexpr const char* kFooter =
    "Examples:\n"
    "  aerogel inspect examples/shapes_dit\n"
    "  aerogel quantize examples/shapes_dit -o quantized --scheme W8A8_DYNAMIC\n"
    "  aerogel generate examples/shapes_dit --prompt \"red circle moves left\" -o video.mp4\n"
    "  aerogel compare float.mp4 quantized.mp4\n"
    "\n"
    "Environment:\n"
    "  AEROGEL_CPU=baseline|avx2|avx512|amx  hold the CPU level down\n"
    "  AEROGEL_NUM_THREADS=N                 threads (results do not depend on it)\n"
    "  AEROGEL_LOG=dispatch                  tell which kernel ran and why the others did not\n"
    "  AEROGEL_KERNEL=NAME                   force a kernel (aerogel inspect --kernels lists them)";

int run(int argc, char** argv) {
    CLI::App app{"Light diffusion transformers: quantized linears, sparse attention, on ordinary machines.",
                 "aerogel"};
    app.footer(kFooter);
    app.set_version_flag("--version", std::string(aerogel::version()));
    app.require_subcommand(1);
    aerogel::cli::add_inspect(app);
    aerogel::cli::add_quantize(app);
    aerogel::cli::add_dequantize(app);
    aerogel::cli::add_generate(app);
    aerogel::cli::add_forward(app);
    aerogel::cli::add_mine(app);
    aerogel::cli::add_compare(app);
    aerogel::cli::add_bench(app);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 1;
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        aerogel::cli::catch_interrupts();
        // Wrong settings in the environment are reported before any work starts.
        aerogel::cpu_level();
        aerogel::check_thread_settings();
        aerogel::log_enabled(aerogel::LogTopic::dispatch);
        const int code = run(argc, argv);
        aerogel::cli::warn_about_threads();
        return code;
    } catch (const aerogel::Cancelled& error) {
        return aerogel::cli::end_interrupted(error.what());
    } catch (const std::exception& error) {
        if (aerogel::cli::interrupted())
            return aerogel::cli::end_interrupted("");  // a failure of what was stopped
        aerogel::cli::warn_about_threads();
        fmt::print(stderr, "aerogel: {}\n", error.what());
        return 1;
    }
}
