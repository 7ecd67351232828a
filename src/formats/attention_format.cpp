// Reading the name of an attention format.
#include "aerogel/attention_format.h"

#include <string>

#include "aerogel/error.h"

namespace aerogel {

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
