// The strings of a JSON object, in file order, without building a tree: what quantization
// descriptions and shard indexes need. Hostile texts (duplicate keys, deep nesting, bad UTF-8)
// end in one clear error.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

/// One string value; when `nested`, it is in the object under the top-level key `parent`.
struct JsonString {
    bool nested = false;
    std::string parent;
    std::string key;
    std::string value;
};

/// All string values of the object `text` at depth one and two; other values are skipped. Control characters
/// inside strings are accepted. `where` ("[description] FILE") begins every error. InvalidArgument when the
/// text is not a JSON object, a key of these depths appears twice, or nesting exceeds 64 levels.
std::vector<JsonString> read_json_strings(std::string_view text, const std::string& where);

}  // namespace aerogel
