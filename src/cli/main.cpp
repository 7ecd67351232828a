// The command `aerogel`: one row per subcommand, and the one place where errors become exit codes:
// 0 done, 1 bad input or failure (one message on stderr), 130 interrupted.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <new>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aerogel/cancellation.h"
#include "aerogel/version.h"
#include "base/cpu_features.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"

namespace {

constexpr const char* kFooter =
    "Examples:\n"
    "  aerogel inspect examples/shapes_dit\n"
    "  aerogel quantize examples/shapes_dit -o quantized --scheme W8A8_DYNAMIC\n"
    "  aerogel generate examples/shapes_dit --prompt \"red circle moves left\" -o video.mp4\n"
    "  aerogel compare float.mp4 quantized.mp4\n"
    "\n"
    "Environment:\n"
    "  AEROGEL_CPU=baseline|avx2|avxvnni|avx512|avx512_bf16|amx\n"
    "                                        use no CPU feature above this level\n"
    "  AEROGEL_NUM_THREADS=N                 number of threads (results do not depend on it)\n"
    "  AEROGEL_LOG=dispatch                  print which kernel ran and why the others did not\n"
    "  AEROGEL_KERNEL=NAME                   force a kernel (aerogel inspect --kernels lists them)";

// In CLI11 "--prompt=" takes the next word as its value; here its value is empty, as that of --prompt "".
std::vector<std::string> words_of(int argc, char** argv, const CLI::App& app) {
    std::vector<std::string> words(argv + 1, argv + argc);
    const auto is_meant = [&](const CLI::App* command) { return command->check_name(words.front()); };
    const auto meant = words.empty() ? std::vector<const CLI::App*>{} : app.get_subcommands(is_meant);
    std::vector<std::string> reversed;  // as CLI11 takes them
    for (auto word = words.rbegin(); word != words.rend(); ++word) {
        const bool ends = !meant.empty() && word->starts_with("--") && word->ends_with('=');
        const auto* option =
            ends ? meant.front()->get_option_no_throw(word->substr(0, word->size() - 1)) : nullptr;
        if (option != nullptr && option->get_items_expected_min() > 0) {
            reversed.emplace_back();
            word->pop_back();
        }
        reversed.push_back(std::move(*word));
    }
    return reversed;
}

// A flag given twice, a word too many and what is no number, in our words instead of CLI11's.
std::string said_by(const CLI::App& app, const CLI::ParseError& error) {
    constexpr std::string_view kTwice = ": At Most 1 required but received ";
    constexpr std::string_view kNoNumber = "Could not convert: ", kGot = " = ";
    const std::string said = error.what();
    if (const std::size_t at = said.find(kGot); said.starts_with(kNoNumber) && at != std::string::npos) {
        return fmt::format("{}: must be a whole number, got '{}'",
                           said.substr(kNoNumber.size(), at - kNoNumber.size()),
                           said.substr(at + kGot.size()));
    }
    if (const std::size_t at = said.find(kTwice); at != std::string::npos)
        return fmt::format("{} takes one value, got {}", said.substr(0, at), said.substr(at + kTwice.size()));
    if (error.get_exit_code() != static_cast<int>(CLI::ExitCodes::ExtrasError)) return said;
    std::string text = fmt::format("not expected: {}", fmt::join(app.remaining(true), " "));
    for (const CLI::App* command : app.get_subcommands()) {
        const CLI::Option* keep = command->get_option_no_throw("--keep");
        if (keep != nullptr && keep->count() > 0) text += "; a value of --keep follows a '=': --keep=host";
    }
    return text;
}

// Help and version are no errors to CLI11's user, but to CLI11.
int tell(const CLI::App& app, const CLI::ParseError& error) {
    std::ostringstream out, err;
    const int code = app.exit(error, out, err);
    if (code == 0) {
        std::string text = out.str();
        while (text.ends_with('\n')) text.pop_back();
        aerogel::cli::print_text(text);
        return 0;
    }
    aerogel::cli::print_error(fmt::format("{} (see --help)", said_by(app, error)));
    return 1;
}

int run(int argc, char** argv) {
    CLI::App app{
        "Makes diffusion transformers light: quantized Linear layers and attention, sparse attention, on any "
        "x86-64 CPU.",
        "aerogel"};
    app.footer(kFooter);
    app.set_version_flag("--version", std::string(aerogel::version()));
    app.require_subcommand(1);
    aerogel::cli::add_inspect(app);
    aerogel::cli::add_quantize(app);
    aerogel::cli::add_tune(app);
    aerogel::cli::add_dequantize(app);
    aerogel::cli::add_generate(app);
    aerogel::cli::add_forward(app);
    aerogel::cli::add_mine(app);
    aerogel::cli::add_compare(app);
    aerogel::cli::add_bench(app);
    for (CLI::App* command : app.get_subcommands({})) aerogel::cli::refuse_empty_texts(*command);
    try {
        app.parse(words_of(argc, argv, app));
    } catch (const CLI::ParseError& error) {
        return tell(app, error);
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        aerogel::cli::prepare_output();
        aerogel::cli::catch_interrupts();
        // Wrong settings in the environment are reported before any work starts.
        aerogel::cpu_level();
        aerogel::check_thread_settings();
        aerogel::log_enabled(aerogel::LogTopic::dispatch);
        const int code = run(argc, argv);
        aerogel::cli::finish_output();
        aerogel::cli::warn_about_threads();
        return code;
    } catch (const aerogel::Cancelled& error) {
        return aerogel::cli::end_interrupted(error.what());
    } catch (const std::exception& error) {
        if (aerogel::cli::interrupted())
            return aerogel::cli::end_interrupted("");  // a failure of what was stopped
        aerogel::cli::warn_about_threads();
        const bool memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
        aerogel::cli::print_error(memory ? "out of memory" : error.what());
        return 1;
    }
}
