// The only place of the library that writes to stderr, and only when asked to.
#include "base/log.h"

#include <cstdio>
#include <string>

#include "base/environment.h"

namespace aerogel {

bool log_enabled(LogTopic topic) {
    static const bool dispatch = environment_choice("AEROGEL_LOG", {"dispatch"}).has_value();
    return topic == LogTopic::dispatch && dispatch;
}

void log_line(LogTopic topic, std::string_view text) {
    if (!log_enabled(topic)) return;
    const std::string line = "aerogel: dispatch: " + std::string(text) + "\n";
    std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace aerogel
