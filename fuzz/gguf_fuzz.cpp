// Any bytes as a GGUF file: either an error, or tensors that lie in the file apart from each other and whose
// blocks can be read; and the same file as the weights of a model.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "aerogel/error.h"
#include "core/gguf.h"
#include "formats/gguf_blocks.h"
#include "quant/weight_file.h"
#include "temporary_file.h"

namespace {

using namespace aerogel;

void require(bool condition) {
    if (!condition) std::abort();
}

void check(const GgufHeader& header, std::span<const std::byte> file) {
    std::uint64_t total = 0;
    for (const GgufTensor& tensor : header.tensors) {
        require(tensor.begin <= file.size() && tensor.bytes <= file.size() - tensor.begin);
        const std::int64_t count = element_count(tensor.shape);
        require(count / tensor.type->block * tensor.type->block_bytes ==
                static_cast<std::int64_t>(tensor.bytes));
        total += tensor.bytes;
        const auto blocks =
            file.subspan(static_cast<std::size_t>(tensor.begin), static_cast<std::size_t>(tensor.bytes));
        std::vector<float> values(static_cast<std::size_t>(count));
        dequantize_blocks(*tensor.type, blocks, count, values.data());
        if (tensor.shape.size() != 2) continue;
        const auto quantized = quantized_blocks(*tensor.type, blocks, tensor.shape[0], tensor.shape[1]);
        require(!quantized || quantized->rows * quantized->columns == count);
    }
    require(total <= file.size());
}

void check_weights(std::span<const std::uint8_t> bytes) {
    static constexpr std::array kRules = {OriginalName{"w", {"q", "k", "v"}}, OriginalName{"v", {"u"}, true}};
    for (const OriginalNames& names : {OriginalNames{}, OriginalNames{"w", kRules}}) {
        const WeightFile file = WeightFile::open(fuzz_file("fuzz.gguf", bytes), names);
        for (const std::string& name : file.names()) {
            const Tensor tensor = file.tensor(name);
            require(tensor.shape() == file.info(name).shape && file.fits(name, tensor.shape()));
            require(file.stored_bytes(name) <= bytes.size());
            const auto quantized = file.quantized(name);
            require(!quantized || quantized->rows * quantized->columns == tensor.count());
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto file = std::as_bytes(std::span(data, size));
    try {
        check(parse_gguf(file, "fuzz"), file);
        check_weights({data, size});
    } catch (const Error&) {
        return 0;
    }
    return 0;
}
