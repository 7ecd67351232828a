// --timings: where the time of a model went, as a table and as JSON.
#pragma once

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "aerogel/timings.h"

namespace aerogel::cli {

void add_timings_flag(CLI::App& command, bool& timings);

/// Seconds, calls, rates and the share of the measured peak of each operation, and what lies between them.
/// `seconds`: all that was measured.
struct TimingsReport {
    std::vector<OperationTime> operations;
    double seconds = 0.0;
};

/// Measures the machine's peaks, which takes about a second.
std::string to_text(const TimingsReport& report);
nlohmann::ordered_json to_json(const TimingsReport& report);

}  // namespace aerogel::cli
