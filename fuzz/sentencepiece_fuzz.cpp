// Any bytes as a spiece.model: either refused, or a tokenizer whose ids all have a token.
#include "aerogel/error.h"
#include "aerogel/tokenizer.h"
#include "temporary_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    try {
        const Tokenizer tokenizer = Tokenizer::load(fuzz_file("sentencepiece/spiece.model", {data, size}));
        for (const char* text : {"", "a", " ab  abc\n", "e\xCC\x81\xE7\x8C\xAB<end> <x>\xF0\x9F\x91\x8D",
                                 "\xE2\x96\x81"
                                 "a"}) {
            const Encoding encoding = tokenizer.encode(text);
            if (encoding.ids.size() != encoding.mask.size()) std::abort();
            tokenizer.decode(encoding.ids, false);
            for (const std::int32_t id : encoding.ids) {
                if (id < 0 || id >= tokenizer.size()) std::abort();
            }
        }
    } catch (const InvalidArgument&) {
        return 0;
    } catch (const Unsupported&) {
        return 0;
    }
    return 0;
}
