// formats_dump FORMAT ROWS COLUMNS GROUP: floats from standard input, encoded by minmax; the bytes of data,
// scale and dual scale and the decoded floats to standard output, one after the other.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "aerogel/error.h"
#include "formats/fp8.h"
#include "formats/int4.h"
#include "formats/mxfp4.h"
#include "formats/mxfp4_dual.h"
#include "formats/mxfp8.h"

namespace {

using aerogel::QuantizedTensor;
using aerogel::Tensor;

QuantizedTensor encode(const std::string& format, const Tensor& weight, std::int64_t group_size) {
    if (format == "int4") return aerogel::encode_int4(weight, group_size);
    if (format == "fp8_e4m3") return aerogel::encode_fp8_e4m3(weight, group_size);
    if (format == "fp8_e5m2") return aerogel::encode_fp8_e5m2(weight, group_size);
    if (format == "mxfp8") return aerogel::encode_mxfp8(weight);
    if (format == "mxfp4") return aerogel::encode_mxfp4(weight);
    if (format == "mxfp4_dual") return aerogel::encode_mxfp4_dual(weight);
    throw aerogel::InvalidArgument("[formats_dump] no format " + format);
}

void write(const Tensor& tensor) {
    if (tensor.defined()) std::fwrite(tensor.data(), 1, tensor.bytes(), stdout);
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 5) return 2;
    try {
        Tensor weight(aerogel::DType::f32, {std::atoll(arguments[2]), std::atoll(arguments[3])});
        if (std::fread(weight.mutable_data(), 1, weight.bytes(), stdin) != weight.bytes()) return 2;
        const QuantizedTensor encoded = encode(arguments[1], weight, std::atoll(arguments[4]));
        write(encoded.data);
        write(encoded.scale);
        write(encoded.dual_scale);
        write(aerogel::dequantize(encoded));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
