// The table of schemes: what one Linear computes. A scheme whose formats exist is one row here and nothing
// else; what it stores follows from it (layer_arrays.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "aerogel/quantized_tensor.h"
#include "aerogel/rotation.h"
#include "kernels/linear.h"

namespace aerogel {

/// One scheme.
struct SchemeRow {
    std::string_view name;                           ///< as in the files: "W8A8_DYNAMIC"
    std::span<const std::string_view> aliases = {};  ///< other names users may give and files may hold
    std::span<const std::string_view> file_names =
        {};  ///< names of files that also tell the algorithm; read only
    Format weight = Format::int8;
    Activation activation = Activation::none;
    int static_bits = 8;             ///< of per_tensor activations: 8 or 4
    bool per_step = false;           ///< one set of static scales per sampling step
    bool needs_calibration = false;  ///< activation ranges must be measured before export
    bool groups = false;             ///< weights may have a scale per group of columns
    std::int64_t group_size = 0;     ///< of those groups unless told otherwise; 0: a scale per row
    bool float32 = false;            ///< scales and bias are stored as f32, whatever the model's type
    std::string_view summary;
};

std::span<const SchemeRow> schemes();
/// "W8A16, W8A8_DYNAMIC, ..." for messages.
std::string scheme_names();
/// The row of a name or alias in any case, or null.
const SchemeRow* find_scheme(std::string_view name);
/// The same for a name out of a file: file_names count as well.
const SchemeRow* find_stored_scheme(std::string_view name);
/// The same two, but Unsupported ("not supported") for names of the file format without a row and
/// InvalidArgument for others; both list what is there. `op` starts the message. Of a stored name the
/// suffixes of QuantType are taken off.
const SchemeRow& scheme_row(std::string_view op, std::string_view name);
const SchemeRow& stored_scheme_row(std::string_view op, std::string_view name);
/// True when `name` (any case) is a quantization type of the file format, with or without a row.
bool is_quant_type(std::string_view name);

/// A type of the file format taken apart: a scheme, and what surrounds its product. "W8A8_SVD_DYNAMIC" is
/// W8A8_DYNAMIC with a low-rank branch, as msModelSlim names it ("_SVD" stands in front of a final
/// "_DYNAMIC", else at the end). "_ROTATED" (Hadamard) and "_CONVROT" behind it are ours: the weight is
/// stored rotated so, and a reader that does not know the name must not take it for a plain one.
struct QuantType {
    std::string scheme;  ///< upper case
    bool low_rank = false;
    std::optional<RotationKind> rotation = std::nullopt;
};

QuantType split_quant_type(std::string_view name);
std::string join_quant_type(const QuantType& type);

}  // namespace aerogel
