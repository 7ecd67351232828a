// The list of all number formats, in the order of the enum.
#include <array>

#include "aerogel/error.h"
#include "formats/format.h"
#include "formats/fp8.h"
#include "formats/int4.h"
#include "formats/int8.h"
#include "formats/mxfp4.h"
#include "formats/mxfp4_dual.h"
#include "formats/mxfp8.h"

namespace aerogel {

extern const FormatRow kFloat32Format, kBFloat16Format;

namespace {

std::span<const FormatRow> table() {
    static const std::array rows = {
        kFloat32Format, kBFloat16Format, kInt8Format,  kInt4Format,      kFp8E4M3Format,
        kFp8E5M2Format, kMxfp8Format,    kMxfp4Format, kMxfp4DualFormat,
    };
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
