// The list of all number formats, in the order of the enum.
#include <array>

#include "aerogel/error.h"
#include "formats/float.h"
#include "formats/format.h"
#include "formats/int8.h"

namespace aerogel {
namespace {

const std::array<FormatRow, 3>& table() {
    static const std::array<FormatRow, 3> rows = {kFloat32Format, kBFloat16Format, kInt8Format};
    return rows;
}

}  // namespace

std::span<const FormatRow> formats() {
    return table();
}

const FormatRow& format_row(Format format) {
    for (const FormatRow& row : table()) {
        if (row.format == format) return row;
    }
    throw InvalidArgument("[format] there is no format number " + std::to_string(static_cast<int>(format)));
}

std::string_view to_string(Format format) {
    return format_row(format).name;
}

}  // namespace aerogel
