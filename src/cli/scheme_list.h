// The table of `aerogel quantize --list`: every scheme with what it needs and what this machine has for it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace aerogel::cli {

std::string scheme_list_text();
nlohmann::ordered_json scheme_list_json();

}  // namespace aerogel::cli
