// Prints the ids of texts, for tests/model/text/test_tokenizers.py. tokenize PATH: every line of the input is
// a JSON object {"text": ..., and what it asks for: "add_special_tokens", "max_length", "pad", "ids" (to
// decode)}; every line of the output one with "ids", "mask" and "text", or with "error".
#include <cstdio>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "aerogel/error.h"
#include "aerogel/tokenizer.h"

namespace {

nlohmann::json answer(const aerogel::Tokenizer& tokenizer, const nlohmann::json& question) {
    aerogel::EncodeOptions options;
    options.add_special_tokens = question.value("add_special_tokens", true);
    options.pad = question.value("pad", false);
    if (question.contains("max_length")) options.max_length = question["max_length"].get<std::int64_t>();
    std::vector<std::int32_t> ids;
    nlohmann::json out;
    if (question.contains("ids")) {
        ids = question["ids"].get<std::vector<std::int32_t>>();
    } else {
        const aerogel::Encoding encoding = tokenizer.encode(question["text"].get<std::string>(), options);
        ids = encoding.ids;
        out["mask"] = encoding.mask;
    }
    out["ids"] = ids;
    out["text"] = tokenizer.decode(ids);
    out["whole"] = tokenizer.decode(ids, false);
    return out;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        if (argc != 2) throw aerogel::InvalidArgument("usage: tokenize PATH");
        const auto tokenizer = aerogel::Tokenizer::load(argv[1]);
        for (std::string line; std::getline(std::cin, line);) {
            nlohmann::json out;
            try {
                out = answer(tokenizer, nlohmann::json::parse(line));
            } catch (const aerogel::Error& error) {
                out["error"] = error.what();
            }
            std::cout << out.dump() << '\n' << std::flush;
        }
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
