// The order of the names, seen from the reader.
#include "quant/pair_switch.h"

#include <system_error>

#include "aerogel/error.h"
#include "core/paths.h"
#include "core/resumable_file.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

// True also where `other` is not there.
bool is_as_new(const fs::path& path, const fs::path& other) {
    std::error_code missing, ignored;
    const auto time = fs::last_write_time(other, missing);
    return missing || fs::last_write_time(path, ignored) >= time;
}

}  // namespace

fs::path next_description_path(const fs::path& description) {
    fs::path next = description;
    next += ".next";
    return next;
}

// A file that was written after the export ended in between makes the old news worthless.
bool is_half_switched(const fs::path& description, const fs::path& weights) {
    const fs::path next = next_description_path(description);
    return is_file(next) && path_exists(weights) && !path_exists(part_path_of(weights)) &&
           is_as_new(next, description) && is_as_new(next, weights);
}

QuantDescription read_description_in_force(const fs::path& description) {
    const fs::path next = next_description_path(description);
    if (is_file(next)) {
        try {
            QuantDescription successor = QuantDescription::read(next);
            if (is_half_switched(description, weight_path_of(description, successor))) return successor;
        } catch (const IoError&) {
            if (path_exists(next)) throw;  // else the export has just finished
        }
    }
    return QuantDescription::read(description);
}

}  // namespace aerogel
