// Every Linear is tried with every row: a few thousand short comparisons.
#include "model/linears_by_name.h"

#include <algorithm>

namespace aerogel {

std::span<const OriginalName> LayeredModel::original_names() const {
    return {};
}

std::string lookup_name(std::string_view name) {
    std::string result(name);
    std::replace(result.begin(), result.end(), '.', '_');
    return result;
}

std::map<std::string, std::vector<NamedPart>> linears_by_name(const LayeredModel& model) {
    std::map<std::string, std::vector<NamedPart>> all;
    for (const std::string& linear : model.linear_names()) {
        all[lookup_name(linear)] = {{linear}};
        for (const OriginalName& row : model.original_names()) {
            const std::size_t parts = row.parts();
            for (std::size_t part = 0; part < parts; ++part) {
                if (const auto match = match_name(row.names[part], linear))
                    all[lookup_name(name_of(row.original, *match))].push_back(
                        {linear, part, parts, row.swap_halves});
            }
        }
    }
    return all;
}

}  // namespace aerogel
