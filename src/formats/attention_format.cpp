// Reading the name of an attention format.
#include "aerogel/attention_format.h"

#include <string>

#include "aerogel/error.h"

namespace aerogel {

void no_attention_format(AttentionFormat format) {
    throw InvalidArgument("[attention] there is no format number " +
                          std::to_string(static_cast<int>(format)));
}

AttentionFormat attention_format_from(std::string_view op, std::string_view name) {
    std::string known;
    for (const AttentionFormatRow& row : kAttentionFormats) {
        if (row.name == name) return row.format;
        known += (known.empty() ? "" : ", ") + std::string(row.name);
    }
    throw InvalidArgument("[" + std::string(op) + "] format must be one of " + known + ", got " +
                          std::string(name));
}

}  // namespace aerogel
