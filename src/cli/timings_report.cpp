// The peaks are those of `aerogel bench`.
#include "cli/timings_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/bench_problems.h"
#include "cli/command.h"

namespace aerogel::cli {
namespace {

/// Operations per second that the machine could do; 0 for what moves data.
class Peaks {
  public:
    double of(Arithmetic arithmetic) {
        if (arithmetic == Arithmetic::none) return 0.0;
        const auto known = peaks_.find(arithmetic);
        if (known != peaks_.end()) return known->second;
        return peaks_[arithmetic] = measured(arithmetic);
    }

  private:
    double measured(Arithmetic arithmetic) {
        if (arithmetic == Arithmetic::int8) return measured_peak(PeakKind::int8);
        if (arithmetic == Arithmetic::f32) return measured_peak(PeakKind::f32);
        // 0 where it is multiplied as float32.
        return std::max(measured_peak(PeakKind::bf16), of(Arithmetic::f32));
    }

    std::map<Arithmetic, double> peaks_;
};

double between(const TimingsReport& report) {
    double seconds = report.seconds;
    for (const OperationTime& operation : report.operations) seconds -= operation.seconds;
    return std::max(seconds, 0.0);
}

double share(double part, double whole) {
    return whole > 0.0 ? 100.0 * part / whole : 0.0;
}

std::string row_of(const OperationTime& operation, double whole, Peaks& peaks) {
    const double seconds = std::max(operation.seconds, 1e-12);
    std::string text = fmt::format("\n  {:<12} {:>7} {:>10} {:>5.1f} %", operation.op, operation.calls,
                                   show_seconds(operation.seconds), share(operation.seconds, whole));
    if (operation.operations > 0.0) {
        const double rate = operation.operations / seconds;
        text += fmt::format(" {:>8.0f} GOPS {:>4.0f} % of peak", rate / 1e9,
                            share(rate, peaks.of(operation.arithmetic)));
    } else if (operation.bytes > 0.0) {
        text += fmt::format(" {:>8.1f} GB/s {:14}", operation.bytes / seconds / 1e9, "");
    } else {
        text += fmt::format("{:29}", "");
    }
    return text + "  " + operation.kernel;
}

}  // namespace

void add_timings_flag(CLI::App& command, bool& timings) {
    command.add_flag(
        "--timings", timings,
        "Also tell where the time went: calls, seconds, rate and share of the peak of each operation");
}

std::string to_text(const TimingsReport& report) {
    Peaks peaks;
    std::string text = fmt::format("operations in {}:", show_seconds(report.seconds));
    for (const OperationTime& operation : report.operations) text += row_of(operation, report.seconds, peaks);
    const double rest = between(report);
    return text + fmt::format("\n  {:<12} {:>7} {:>10} {:>5.1f} %", "between", "", show_seconds(rest),
                              share(rest, report.seconds));
}

nlohmann::ordered_json to_json(const TimingsReport& report) {
    Peaks peaks;
    nlohmann::ordered_json operations = nlohmann::ordered_json::array();
    for (const OperationTime& operation : report.operations) {
        nlohmann::ordered_json entry = {
            {"op", operation.op},           {"kernel", operation.kernel},         {"calls", operation.calls},
            {"seconds", operation.seconds}, {"operations", operation.operations}, {"bytes", operation.bytes}};
        const double peak = peaks.of(operation.arithmetic);
        if (peak > 0.0 && operation.seconds > 0.0)
            entry["percent_of_peak"] = share(operation.operations / operation.seconds, peak);
        operations.push_back(std::move(entry));
    }
    return {{"seconds", report.seconds}, {"seconds_between", between(report)}, {"operations", operations}};
}

}  // namespace aerogel::cli
