// Any bytes as the vocabulary of a text encoder, beside tables for eight words: either an InvalidArgument, or
// an encoder that gives finite embeddings or refuses a caption.
#include <cmath>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "model/text/caption_table.h"
#include "temporary_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    static const bool ready = [] {
        save_safetensors(fuzz_folder() / "model.safetensors",
                         {{"word_embedding.weight", Tensor::zeros(DType::f32, {8, 4})},
                          {"position_embedding.weight", Tensor::zeros(DType::f32, {8, 4})}});
        return true;
    }();
    try {
        fuzz_file("vocabulary.json", {data, size});
        const CaptionTable encoder = CaptionTable::load(fuzz_folder());
        for (const char* caption : {"", "red", "red circle, blue star", ",", "x"}) {
            try {
                const Tensor embeddings = encoder.encode(caption);
                if (!ready || embeddings.shape().size() != 3 || embeddings.dim(2) != 4) std::abort();
            } catch (const InvalidArgument&) {
                continue;
            }
        }
    } catch (const InvalidArgument&) {
        return 0;
    }
    return 0;
}
