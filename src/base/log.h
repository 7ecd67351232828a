// Opt-in diagnostics on stderr, switched on by AEROGEL_LOG=TOPIC.
#pragma once

#include <string_view>

namespace aerogel {

enum class LogTopic { dispatch };

/// True when AEROGEL_LOG names the topic. Throws InvalidArgument on an unknown topic.
bool log_enabled(LogTopic topic);
/// One line, "aerogel: dispatch: ..."; does nothing when the topic is off.
void log_line(LogTopic topic, std::string_view text);

}  // namespace aerogel
