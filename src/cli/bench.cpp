// aerogel bench: medians of the kernels on this machine, beside its measured peak and their error.
// Peers (PyTorch) are measured beside them by bench/run.py.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "aerogel/cancellation.h"
#include "aerogel/error.h"
#include "aerogel/threads.h"
#include "base/clock.h"
#include "base/cpu_features.h"
#include "base/memory.h"
#include "cli/arguments.h"
#include "cli/bench_problems.h"
#include "cli/command.h"
#include "cli/output.h"
#include "core/text.h"

namespace aerogel::cli {
namespace {

using Json = nlohmann::ordered_json;

struct BenchOptions {
    std::vector<std::string> only;
    std::string device = "cpu";
    std::string beside;  ///< name of a problem, its calls timed between those of each chosen one
    int repeat = 15;
    bool cold = false;
    bool list = false;
    bool json = false;
};

struct Measured {
    const BenchProblem* problem;
    std::vector<double> seconds;  ///< sorted
    std::vector<double> beside;   ///< sorted
    double error = 0.0;
    double weight_bytes = 0.0;
    double peak = 0.0;

    static double quantile(const std::vector<double>& sorted, double q) {
        return sorted[static_cast<std::size_t>(std::lround(q * static_cast<double>(sorted.size() - 1)))];
    }
    double at(double q) const { return quantile(seconds, q); }
    /// Median time of the problem beside over that of this one; 0 without one.
    double ratio() const { return beside.empty() ? 0.0 : quantile(beside, 0.5) / at(0.5); }
    double rate() const { return problem->operations / at(0.5); }
    double weight_rate() const { return weight_bytes / at(0.5); }
};

bool selected(const BenchProblem& problem, const std::vector<std::string>& only) {
    return only.empty() ||
           std::any_of(only.begin(), only.end(), [&](const auto& part) { return problem.is_meant_by(part); });
}

/// Seconds of a call. A device gets several calls before it is waited for, as in a model.
double timed(const BenchCase& bench, bool cold, int calls = 1) {
    if (cold) empty_caches();
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) bench.run();
    if (bench.wait) bench.wait();
    return seconds_since(start) / calls;
}

/// As many calls as take some 20 ms on a device, so that launches and the wait cost little; one on the CPU.
int calls_of(const BenchCase& bench) {
    if (!bench.wait) return 1;
    return static_cast<int>(std::clamp(0.02 / timed(bench, false), 1.0, 1000.0));
}

Measured measure(const BenchProblem& problem, const BenchCase* beside, const BenchOptions& options) {
    const BenchCase bench = problem.make();
    Measured measured{&problem, {}, {}};
    measured.weight_bytes = bench.weight_bytes;
    bench.run();
    bench.run();
    const int calls = calls_of(bench), calls_beside = beside != nullptr ? calls_of(*beside) : 0;
    for (int i = 0; i < options.repeat && !interrupted(); ++i) {
        measured.seconds.push_back(timed(bench, options.cold, calls));
        if (beside != nullptr) measured.beside.push_back(timed(*beside, options.cold, calls_beside));
    }
    if (measured.seconds.empty()) return measured;
    std::sort(measured.seconds.begin(), measured.seconds.end());
    std::sort(measured.beside.begin(), measured.beside.end());
    measured.error = bench.error();
    return measured;
}

Json to_json(const Measured& m) {
    return {{"name", m.problem->name},
            {"median_seconds", m.at(0.5)},
            {"seconds", m.seconds},
            {"beside_seconds", m.beside},
            {"gops", m.rate() / 1e9},
            {"peak_gops", m.peak > 0 ? Json(m.peak / 1e9) : Json()},
            {"percent_of_peak", m.peak > 0 ? Json(100 * m.rate() / m.peak) : Json()},
            {"error", m.error},
            {"error_of", m.problem->error_of},
            {"weight_bytes", m.weight_bytes},
            {"weight_gb_per_s", m.weight_rate() / 1e9}};
}

// The problem of that name, run once; none for an empty name.
std::optional<BenchCase> make_beside(const std::vector<BenchProblem>& problems, const std::string& name) {
    if (name.empty()) return std::nullopt;
    const auto found = std::find_if(problems.begin(), problems.end(),
                                    [&](const auto& problem) { return problem.name == name; });
    if (found == problems.end())
        throw InvalidArgument(
            fmt::format("[bench] --beside: no problem is called '{}'; --list shows them", name));
    BenchCase beside = found->make();
    beside.run();
    return beside;
}

/// Of the CPU, operations per second.
struct MeasuredPeaks {
    double f32 = 0, bf16 = 0, int8 = 0;
};

MeasuredPeaks measured_peaks() {
    const double f32 = measured_peak(PeakKind::f32);
    // bf16: 0 where it is multiplied as float32
    return {f32, std::max(measured_peak(PeakKind::bf16), f32), measured_peak(PeakKind::int8)};
}

std::string describe_cpu(const MeasuredPeaks& peaks) {
    return fmt::format("{}, {}, {}; measured peak: {:.0f} GFLOPS float32, {:.0f} bfloat16, {:.0f} GOPS int8",
                       cpu_name(), to_string(cpu_level()), counted(num_threads(), "thread"), peaks.f32 / 1e9,
                       peaks.bf16 / 1e9, peaks.int8 / 1e9);
}

void print_names(const std::vector<const BenchProblem*>& problems, bool json) {
    Json names = Json::array();
    for (const auto* problem : problems) {
        if (!json) print_text(problem->name);
        names.push_back(problem->name);
    }
    if (json) print_json({{"problems", names}});
}

void run_bench(const BenchOptions& options) {
    const Device device = parse_device("bench", options.device);
    const auto problems = bench_problems(device);
    std::vector<const BenchProblem*> chosen;
    for (const auto& problem : problems) {
        if (selected(problem, options.only)) chosen.push_back(&problem);
    }
    if (chosen.empty())
        throw InvalidArgument("[bench] no problem's name contains any of --only; --list shows them");
    if (options.list) {
        print_names(chosen, options.json);
        return;
    }
    const std::optional<BenchCase> beside = make_beside(problems, options.beside);
    const MeasuredPeaks peaks = device == Device::cpu ? measured_peaks() : MeasuredPeaks{};
    if (!options.json) {
        print_text(device == Device::cpu ? describe_cpu(peaks) : device.describe());
        print_text(fmt::format("{:<46} {:>10} {:>9} {:>9} {:>8} {:>13} {:>10} {:>9}", "problem", "median ms",
                               "spread", "GOPS", "of peak", "weights GB/s", "error",
                               beside ? "x beside" : ""));
    }
    Json results = Json::array();
    for (const auto* problem : chosen) {
        Measured m{problem, {}, {}};
        try {
            m = measure(*problem, beside ? &*beside : nullptr, options);
        } catch (const Unsupported& refusal) {  // a GPU has no kernel of last resort
            if (device == Device::cpu) throw;
            if (!options.json) print_text(fmt::format("{:<46} {}", problem->name, refusal.what()));
            results.push_back({{"name", problem->name}, {"refused", refusal.what()}});
            continue;
        }
        if (interrupted()) throw Cancelled("[bench] interrupted");
        m.peak = problem->peak == PeakKind::int8   ? peaks.int8
                 : problem->peak == PeakKind::bf16 ? peaks.bf16
                                                   : peaks.f32;
        if (options.json) {
            results.push_back(to_json(m));
            continue;
        }
        print_text(fmt::format("{:<46} {:>10.3f} {:>7.1f} % {:>9.0f} {:>8} {:>13} {:>10.2e} {:>9}",
                               problem->name, 1e3 * m.at(0.5), 100 * (m.at(0.9) - m.at(0.1)) / m.at(0.5),
                               m.rate() / 1e9,
                               m.peak > 0 ? fmt::format("{:.0f} %", 100 * m.rate() / m.peak) : "-",
                               m.weight_bytes == 0 ? "-" : fmt::format("{:.2f}", m.weight_rate() / 1e9),
                               m.error, beside ? fmt::format("{:.2f}", m.ratio()) : ""));
        finish_output();
    }
    if (!options.json) return;
    const Json cpu = {{"name", cpu_name()},
                      {"level", to_string(cpu_level())},
                      {"threads", num_threads()},
                      {"cache_bytes", cache_bytes()}};
    print_json({{"cpu", cpu}, {"device", device.describe()}, {"results", results}});
}

}  // namespace

void add_bench(CLI::App& app) {
    auto* command = app.add_subcommand(
        "bench", "Time the kernels: median, spread (p10 to p90), share of the measured peak, error");
    auto options = std::make_shared<BenchOptions>();
    command->add_option("--only", options->only,
                        "Only problems whose name, or whose model's, contains this text; repeatable");
    command->add_option("--device", options->device, "Where the kernels run: cpu, cuda or cuda:N")
        ->capture_default_str();
    command->add_option("--beside", options->beside,
                        "Time calls of this problem in between, so that changes in the machine's speed do "
                        "not affect the ratio");
    command->add_flag("--cold", options->cold,
                      "Empty the caches before each timed call, as the other layers of a large model would");
    command->add_option("--repeat", options->repeat, "Timed calls of each problem")
        ->capture_default_str()
        ->check(whole_number(1, 10000));
    command->add_flag("--list", options->list, "Print the names of the problems");
    command->add_flag("--json", options->json, "Print JSON");
    command->footer(
        "Examples:\n"
        "  aerogel bench --only attention\n"
        "  aerogel bench --only wan2.1-1.3b\n"
        "  AEROGEL_CPU=avx2 aerogel bench --only W8A8_DYNAMIC --json\n"
        "  aerogel bench --cold --only /16x3072x3072 --beside linear/FLOAT/16x3072x3072\n"
        "To compare with PyTorch: make bench");
    command->callback([options] { run_bench(*options); });
}

}  // namespace aerogel::cli
