// Tokenizers refuse what is wrong in their files by one line, and texts that are not UTF-8. The ids
// themselves are compared with other implementations in test_tokenizers.py.
#include "aerogel/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "aerogel/error.h"

namespace aerogel {
namespace {

using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

Json bpe() {
    return Json::parse(R"({
        "added_tokens": [{"id": 7, "content": "<end>", "special": true, "normalized": false}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}},
            {"SpecialToken": {"id": "<end>"}}], "special_tokens": {"<end>": {"ids": [7]}}},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ã": 4, "©": 5, "Ã©": 6},
                  "merges": ["a b", ["Ã", "©"]]}})");
}

Json unigram() {
    return Json::parse(
        R"({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1], ["▁", -2]]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}})");
}

class TokenizerTest : public testing::Test {
  protected:
    // The suites of several CPU levels run at once: each process has folders of its own.
    void SetUp() override {
        const auto* info = testing::UnitTest::GetInstance()->current_test_info();
        folder_ = std::filesystem::temp_directory_path() /
                  ("aerogel_" + std::to_string(::getpid()) + "_" + std::string(info->name()));
        std::filesystem::remove_all(folder_);
        std::filesystem::create_directories(folder_);
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }

    void write(const std::string& name, std::string_view text) const {
        std::ofstream(folder_ / name, std::ios::binary) << text;
    }
    Tokenizer load(const Json& json) const {
        write("tokenizer.json", json.dump());
        return Tokenizer::load(folder_);
    }
    // The one line of the error of loading the folder.
    template <typename Kind = InvalidArgument>
    std::string refusal() const {
        try {
            Tokenizer::load(folder_);
        } catch (const Kind& error) {
            EXPECT_THAT(error.what(), HasSubstr("[tokenizer] " + folder_.string()));
            EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
            return error.what();
        } catch (const std::exception& error) {
            ADD_FAILURE() << "another error: " << error.what();
        }
        ADD_FAILURE() << "no error";
        return "";
    }
    // The same of a file that differs from a right one in one place.
    template <typename Kind = InvalidArgument>
    std::string refusal(Json json, const char* place, const char* value) const {
        json[Json::json_pointer(place)] = Json::parse(value);
        write("tokenizer.json", json.dump());
        return refusal<Kind>();
    }

    std::filesystem::path folder_;
};

TEST_F(TokenizerTest, EncodesAndDecodes) {
    const Tokenizer tokenizer = load(bpe());
    const Encoding encoding = tokenizer.encode("ab e\xCC\x81<end>", {.max_length = 8});
    EXPECT_THAT(encoding.ids, ElementsAre(2, 3, 6, 7, 7));
    EXPECT_THAT(encoding.mask, ElementsAre(1, 1, 1, 1, 1));
    EXPECT_EQ(tokenizer.decode(encoding.ids), "ab \xC3\xA9");
    EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{7, 4}, false), "<end>\xEF\xBF\xBD");
    EXPECT_EQ(tokenizer.special_id("<end>"), 7);
    EXPECT_EQ(tokenizer.size(), 8);
    EXPECT_FALSE(tokenizer.pad_id().has_value());
}

TEST_F(TokenizerTest, RefusesTexts) {
    const Tokenizer tokenizer = load(bpe());
    const auto refused = [&](std::string_view text, const EncodeOptions& options = {}) -> std::string {
        try {
            tokenizer.encode(text, options);
        } catch (const InvalidArgument& error) {
            return error.what();
        }
        return "nothing";
    };
    EXPECT_EQ(refused("ab\xFFg"), "[tokenizer] a text must be UTF-8, got the byte 0xFF at 2");
    for (const char* wrong : {"\xC3", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC0\x80", "a\x80", "\xE2\x82"}) {
        EXPECT_THAT(refused(wrong), HasSubstr("must be UTF-8"));
    }
    EXPECT_THAT(refused(std::string(17'000'000, 'a')),
                HasSubstr("at most 16000000 bytes long, got 17000000"));
    EXPECT_THAT(refused("a", {.max_length = 0}),
                HasSubstr("max_length must be at least 1 (special tokens), got 0"));
    EXPECT_THAT(refused("a", {.max_length = -3}), HasSubstr("got -3"));
    EXPECT_THAT(refused("a", {.pad = true}), HasSubstr("pad needs max_length"));
    EXPECT_THAT(refused("a", {.max_length = 4, .pad = true}), HasSubstr("pad needs a padding token"));
    EXPECT_THROW(tokenizer.special_id("<start>"), InvalidArgument);
    EXPECT_THROW(tokenizer.decode(std::vector<std::int32_t>{-1}), InvalidArgument);
}

TEST_F(TokenizerTest, RefusesVocabularies) {
    EXPECT_THAT(refusal(bpe(), "/model/vocab/b", "0"),
                HasSubstr("model.vocab.b must be an id that no other token has"));
    EXPECT_THAT(refusal(bpe(), "/model/vocab/b", "-1"), HasSubstr("must be a whole number from 0 to"));
    EXPECT_THAT(refusal(bpe(), "/model/vocab/b", "4294967296"),
                HasSubstr("must be a whole number from 0 to"));
    EXPECT_THAT(refusal(bpe(), "/model/vocab", "[]"),
                HasSubstr("model.vocab must be an object of tokens and ids"));
    EXPECT_THAT(refusal(bpe(), "/model/merges/0", "\"a c\""), HasSubstr("'c' is not in the vocabulary"));
    EXPECT_THAT(refusal(bpe(), "/model/merges/0", "\"b a\""), HasSubstr("'ba' is not in the vocabulary"));
    EXPECT_THAT(refusal(bpe(), "/model/merges/0", "\"a b c\""), HasSubstr("merges[0] must be two tokens"));
    EXPECT_THAT(refusal(bpe(), "/model/merges/0", "[\"a\"]"), HasSubstr("merges[0] must be two tokens"));
    EXPECT_THAT(refusal(bpe(), "/model/merges", "7"), HasSubstr("model.merges must be a list of pairs"));
    EXPECT_THAT(refusal(bpe(), "/model/unk_token", "\"?\""),
                HasSubstr("unk_token must be a token of the vocabulary"));
    EXPECT_THAT(refusal(unigram(), "/model/vocab/1/0", "\"▁\""),
                HasSubstr("must be a piece that is not there yet"));
    EXPECT_THAT(refusal(unigram(), "/model/vocab/1", "[\"a\"]"), HasSubstr("must be a piece and its score"));
    EXPECT_THAT(refusal(unigram(), "/model/vocab/1/1", "\"x\""), HasSubstr("must be a number from"));
    EXPECT_THAT(refusal(unigram(), "/model/vocab", "[]"), HasSubstr("model.vocab must be a list of pieces"));
    EXPECT_THAT(refusal(unigram(), "/model/unk_id", "3"),
                HasSubstr("unk_id must be a whole number from 0 to 2, got 3"));
    EXPECT_THAT(refusal(unigram(), "/model/unk_id", "null"), HasSubstr("unk_id must be a whole number"));
}

TEST_F(TokenizerTest, RefusesAddedTokens) {
    EXPECT_THAT(refusal(bpe(), "/added_tokens/0/id", "0"), HasSubstr("(0 is 'a'), got 0"));
    EXPECT_THAT(refusal(bpe(), "/added_tokens/0/content", "\"a\""),
                HasSubstr("must be 0, the id of 'a', got 7"));
    EXPECT_THAT(refusal(bpe(), "/added_tokens/0/content", "{}"),
                HasSubstr("added_tokens[0].content must be a string"));
    EXPECT_THAT(refusal(bpe(), "/added_tokens/0/lstrip", "1"),
                HasSubstr("lstrip must be true or false, got 1"));
    EXPECT_THAT(
        refusal(
            bpe(), "/added_tokens",
            R"([{"id": 7, "content": "<end>"}, {"id": 8, "content": "é"}, {"id": 9, "content": "e\u0301"}])"),
        HasSubstr("have the same normal form"));
    EXPECT_THAT(refusal(bpe(), "/post_processor/special_tokens/<end>/ids/0", "99"),
                HasSubstr("must be the id of a token, got 99"));
    EXPECT_THAT(refusal(bpe(), "/padding", R"({"pad_id": 99})"),
                HasSubstr("padding.pad_id must be the id of a token, got 99"));
    EXPECT_THAT(refusal(bpe(), "/post_processor/single/1/SpecialToken/id", "\"<x>\""),
                HasSubstr("must be one of special_tokens"));
    EXPECT_THAT(refusal(bpe(), "/post_processor/single/0", R"({"SpecialToken": {"id": "<end>"}})"),
                HasSubstr("one Sequence between special tokens"));
}

TEST_F(TokenizerTest, RefusesStepsItDoesNotKnow) {
    EXPECT_THAT(refusal<Unsupported>(bpe(), "/normalizer/type", "\"Lowercase\""),
                HasSubstr("normalizer.type must be one of Sequence, NFC"));
    EXPECT_THAT(refusal<Unsupported>(bpe(), "/pre_tokenizer/pretokenizers/0/type", "\"Digits\""),
                HasSubstr("pretokenizers[0].type must be one of"));
    EXPECT_THAT(refusal<Unsupported>(bpe(), "/pre_tokenizer/pretokenizers/0/invert", "true"),
                HasSubstr("invert must be"));
    EXPECT_THAT(refusal(bpe(), "/pre_tokenizer/pretokenizers/0/behavior", "\"Removed\""),
                HasSubstr("behavior must be Isolated"));
    EXPECT_THAT(refusal<Unsupported>(bpe(), "/decoder/type", "\"Fuse\""),
                HasSubstr("decoder.type must be one of"));
    EXPECT_THAT(refusal<Unsupported>(bpe(), "/model/type", "\"WordPiece\""),
                HasSubstr("model.type must be one of"));
    EXPECT_THAT(refusal<Unsupported>(bpe(), "/model/dropout", "0.1"),
                HasSubstr("model.dropout must be null"));
    EXPECT_THAT(refusal<Unsupported>(unigram(), "/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [
        {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"}]})"),
                HasSubstr("must be always or never behind another step, got first"));
    EXPECT_THAT(refusal(unigram(), "/pre_tokenizer/prepend_scheme", "\"last\""),
                HasSubstr("one of always, first, never"));
    EXPECT_THAT(refusal(unigram(), "/pre_tokenizer/replacement", "\"ab\""),
                HasSubstr("must be one character"));
    EXPECT_THAT(refusal(bpe(), "/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "????"})"),
                HasSubstr("precompiled_charsmap must be base64"));
    EXPECT_THAT(
        refusal(bpe(), "/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "/////////w=="})"),
        HasSubstr("must begin with the bytes of its trie"));
}

TEST_F(TokenizerTest, LimitsPatterns) {
    const char* place = "/pre_tokenizer/pretokenizers/0/pattern/Regex";
    EXPECT_THAT(refusal(bpe(), place, "\"(\""), HasSubstr("the pattern '(' is not valid: "));
    EXPECT_THAT(refusal(bpe(), place, Json(std::string(5000, 'a')).dump().c_str()),
                HasSubstr("at most 4096 bytes long"));
    EXPECT_THAT(refusal(bpe(), place, Json(std::string(2000, '(') + std::string(2000, ')')).dump().c_str()),
                HasSubstr("is not valid"));
    EXPECT_THAT(refusal(bpe(), place, "\"[a\""), HasSubstr("a class does not end"));
    EXPECT_THAT(refusal(bpe(), place, "\"a\\\\\""), HasSubstr("ends with a backslash"));
    EXPECT_THAT(refusal<Unsupported>(bpe(), place, "\"a{1001}\""),
                HasSubstr("'{1001' in the pattern 'a{1001}' is not supported"));
    // Many ways to match, at one place or at each; and long runs that nothing but the pattern's first item
    // sees.
    const std::string many(20'000, 'a');
    for (const char* slow :
         {"(a|aa)+$", "(a|aa){30}!", "a+!", "a++!", "(?>\\p{L}+)-", "(?<=a)(?=.*!!)", "(?i:k)|a*!"}) {
        Json json = bpe();
        json[Json::json_pointer(place)] = slow;
        const Tokenizer tokenizer = load(json);
        EXPECT_NO_THROW(tokenizer.encode("ab ab!")) << slow;
        EXPECT_THROW(tokenizer.encode(many + "b!"), InvalidArgument) << slow;
    }
    Json quick = bpe();
    quick[Json::json_pointer(place)] = R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|\s*[\r\n]+|\s+(?!\S)|\s+)";
    const std::string spaces(1'000'000, ' ');
    EXPECT_NO_THROW(load(quick).encode(spaces + "a" + spaces + "\n" + spaces));
}

// What PCRE2 would take, but means another thing by or may read in another way than Oniguruma.
TEST_F(TokenizerTest, RefusesPatternsWithAnotherMeaning) {
    for (const char* wrong :
         {"(?<=\\Ka)",     "\\Ka",      "\\h",       "\\H",     "\\R",          "\\X",
          "\\w",           "\\W",       "\\b",       "\\B",     "\\G",          "\\1",
          "(a)\\0",        "\\Qa\\E",   "\\N",       "\\C",     "\\cA",         "\\xE4",
          "\\u00E",        "\\x{}",     "\\pL",      "\\p{^L}", "\\p{Han}",     "\\p{Alphabetic}",
          "[\\S]",         "[\\P{L}]",  "[\\D]",     "[\\b]",   "(?m)a",        "(?m:a)",
          "(?s)a",         "(?i)a",     "(?x:a b)",  "(?-i:a)", "(?i:\\p{Lu})", "(?i:ss)",
          "(?i:\xC3\x9F)", "(?i:[^a])", "(?i:(a))",  "(?#a)",   "(?<n>a)",      "(?P<n>a)",
          "(?|a)",         "(?R)",      "(?1)",      "(?(1)a)", "(?~a)",        "(?{system})",
          "(?C1)",         "(*UTF)",    "(*ACCEPT)", "[[a]]",   "[a[:alpha:]]", "[a&&b]",
          "[]a]",          "[a-c-e]",   "[a-\\d]",   "[\\d-z]", "[--a]",        "a**",
          "a+*",           "a{2}?",     "a{2}+",     "a{1,2}+", "a{2}{3}",      "a{",
          "a{,}",          "a{x}",      "*a",        "^*",      "(?=a)*",       "(?<!a)+",
          "(|*a)"}) {
        const std::string text = refusal<Unsupported>(bpe(), "/pre_tokenizer/pretokenizers/0/pattern/Regex",
                                                      Json(wrong).dump().c_str());
        EXPECT_THAT(text, HasSubstr("is not supported")) << wrong;
    }
}

// 2^40 bytes of a text, or of an added token when the file is read.
TEST_F(TokenizerTest, LimitsTheGrowthOfTexts) {
    const Json twice = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
    const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
    const auto steps = [](const Json& step, const char* list, int count) {
        return Json{{"type", "Sequence"}, {list, std::vector<Json>(static_cast<std::size_t>(count), step)}};
    };
    Json json = bpe();
    json["normalizer"] = steps(twice, "normalizers", 40);
    const Tokenizer grows = load(json);
    EXPECT_THROW(grows.encode("a"), InvalidArgument);
    EXPECT_NO_THROW(grows.encode("b"));
    json["added_tokens"][0] = {{"id", 7}, {"content", "<a>"}, {"normalized", true}};
    json["post_processor"] = nullptr;
    write("tokenizer.json", json.dump());
    EXPECT_THROW(Tokenizer::load(folder_), InvalidArgument);

    json = bpe();
    json["normalizer"] = {
        {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(1'000'000, 'a')}};
    EXPECT_THROW(load(json).encode(std::string(1'000, 'a')), InvalidArgument);
    json = bpe();
    json["pre_tokenizer"] = steps(bytes, "pretokenizers", 40);
    EXPECT_THROW(load(json).encode("\xC3\xA9"), InvalidArgument);
    EXPECT_THAT(refusal(bpe(), "/normalizer", steps(twice, "normalizers", 101).dump().c_str()),
                HasSubstr("one of 100 steps at most"));
    EXPECT_THAT(refusal(bpe(), "/pre_tokenizer", steps(bytes, "pretokenizers", 101).dump().c_str()),
                HasSubstr("one of 100 steps at most"));
}

// Texts and tokens for which every place is looked at from every other one.
TEST_F(TokenizerTest, TakesNoSquareOfTime) {
    Json json = bpe();
    json["added_tokens"] = Json::array();
    for (const char* token : {" ", "\t"}) {
        json["added_tokens"].push_back({{"id", 10 + json["added_tokens"].size()},
                                        {"content", token},
                                        {"lstrip", true},
                                        {"rstrip", *token == ' '},
                                        {"normalized", false}});
    }
    json["post_processor"] = nullptr;
    std::string text;
    for (int i = 0; i < 200'000; ++i) text += " \t";
    EXPECT_EQ(load(json).encode(text).ids.size(), 400'000U);

    const std::string longest(1024, 'a');
    const std::string longer = longest + "a";
    EXPECT_NO_THROW(load([&] {
        Json long_token = bpe();
        long_token["model"]["vocab"][longest] = 20;
        return long_token;
    }()));
    EXPECT_THAT(refusal(bpe(), ("/model/vocab/" + longer).c_str(), "20"),
                HasSubstr("a token of at most 1024 bytes"));
    EXPECT_THAT(refusal(bpe(), "/added_tokens/0/content", Json(longer).dump().c_str()),
                HasSubstr("content must be at most 1024 bytes long"));
    EXPECT_THAT(refusal(unigram(), "/model/vocab/1/0", Json(longer).dump().c_str()),
                HasSubstr("must be at most 1024 bytes long"));
}

TEST_F(TokenizerTest, RefusesPaths) {
    std::filesystem::create_symlink(folder_ / "loop", folder_ / "loop");
    EXPECT_THROW(Tokenizer::load(folder_ / "loop"), IoError);
    EXPECT_THROW(Tokenizer::load(folder_ / std::string(300, 'a')), IoError);
    std::filesystem::create_symlink(folder_ / "tokenizer.json", folder_ / "tokenizer.json");
    EXPECT_THROW(Tokenizer::load(folder_), IoError);
    std::filesystem::remove(folder_ / "tokenizer.json");
    std::filesystem::create_symlink(folder_ / "tokenizer_config.json", folder_ / "tokenizer_config.json");
    EXPECT_THROW(load(bpe()), IoError);
    std::filesystem::remove(folder_ / "tokenizer.json");
    write("vocab.json", R"({"a": 0})");
    EXPECT_THROW(Tokenizer::load(folder_), IoError);
}

TEST_F(TokenizerTest, RefusesFiles) {
    EXPECT_THAT(refusal(),
                HasSubstr("must hold tokenizer.json, vocab.json with merges.txt, or spiece.model"));
    EXPECT_THROW(Tokenizer::load(folder_ / "tokenizer.json"), IoError);
    write("tokenizer.json", std::string(100'000, '['));
    EXPECT_THAT(refusal(), HasSubstr("tokenizer.json"));
    write("tokenizer.json", "{}");
    EXPECT_THAT(refusal(), HasSubstr("model must be an object, got nothing"));
    Json nested = {{"type", "NFC"}};
    for (int i = 0; i < 40; ++i) nested = {{"type", "Sequence"}, {"normalizers", Json::array({nested})}};
    EXPECT_THAT(refusal(bpe(), "/normalizer", nested.dump().c_str()),
                HasSubstr("nested deeper than 64 levels"));

    std::filesystem::remove(folder_ / "tokenizer.json");
    write("vocab.json", R"({"a": 0, "b": 1, "ab": 2})");
    EXPECT_THROW(Tokenizer::load(folder_), IoError);  // no merges
    write("merges.txt", "#version: 0.2\na b\r\nb c\n");
    EXPECT_THAT(refusal(), HasSubstr("merges.txt: line 3 must be two tokens that join to a third"));
    write("merges.txt", "a\n");
    EXPECT_THAT(refusal(), HasSubstr("line 1 must be two tokens with a space between them, got 'a'"));
    write("merges.txt", "a b\r\n\n");
    EXPECT_THAT(Tokenizer::load(folder_).encode("ab").ids, ElementsAre(2));
    write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
    EXPECT_THAT(refusal<Unsupported>(), HasSubstr("tokenizer_class must be one of Qwen2Tokenizer"));
    write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<x>"}}})");
    EXPECT_THAT(refusal(), HasSubstr("under an id from 0"));
    write("tokenizer_config.json", R"({"pad_token": "<pad>"})");
    EXPECT_THAT(refusal(), HasSubstr("pad_token must be a token of the vocabulary"));
    write("tokenizer_config.json", R"({"pad_token": {"content": "a"}, "padding_side": "left"})");
    const Encoding padded = Tokenizer::load(folder_).encode("ab", {.max_length = 3, .pad = true});
    EXPECT_THAT(padded.ids, ElementsAre(0, 0, 2));
    EXPECT_THAT(padded.mask, ElementsAre(0, 0, 1));
}

// A field of a protocol buffer that holds bytes.
std::string field(int number, const std::string& bytes) {
    return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}

std::string piece(const std::string& text, int type, const std::string& score = std::string(4, '\0')) {
    return field(1, field(1, text) + "\x15" + score + "\x18" + static_cast<char>(type));
}

TEST_F(TokenizerTest, RefusesSentencePieceModels) {
    const auto refused = [&]<typename Kind = InvalidArgument>(const std::string& bytes) {
        write("spiece.model", bytes);
        return refusal<Kind>();
    };
    const std::string good = piece("<unk>", 2) + piece("</s>", 3) + piece("a", 1);
    write("spiece.model", good);
    EXPECT_THAT(Tokenizer::load(folder_).encode("aa").ids, ElementsAre(0, 2, 2, 1));
    EXPECT_THAT(refused(""), HasSubstr("must have an unknown piece, got none"));
    EXPECT_THAT(refused(good.substr(0, good.size() - 1)), HasSubstr("a message that ends too early"));
    EXPECT_THAT(refused("\x0B"), HasSubstr("a field of an unknown kind"));
    EXPECT_THAT(refused(std::string(20, '\xFF')), HasSubstr("must be a SentencePiece model"));
    EXPECT_THAT(refused(good + piece("a", 1)), HasSubstr("piece 3 ('a') must not be there twice"));
    EXPECT_THAT(refused(good + piece("b", 2)), HasSubstr("must be the only unknown piece"));
    EXPECT_THAT(refused(good + piece("", 1)), HasSubstr("must be a text in UTF-8"));
    EXPECT_THAT(refused(good + piece("\xFF", 1)), HasSubstr("must be a text in UTF-8"));
    EXPECT_THAT(refused(good + piece("b", 9)), HasSubstr("has an unknown type"));
    EXPECT_THAT(refused(good + piece("b", 1, std::string("\0\0\x80\x7F", 4))),
                HasSubstr("a finite score, got inf"));
    EXPECT_THAT(refused(good + field(3, field(2, "abcdefghij"))),
                HasSubstr("must begin with the bytes of its trie"));
    EXPECT_THAT(refused(good + field(2, "\x98\x02\x01")), HasSubstr("must have 256 pieces of bytes"));
    EXPECT_THAT(refused.operator()<Unsupported>(good + field(2, "\x18\x02")),
                HasSubstr("model_type must be 1 (unigram), got 2"));
}

TEST_F(TokenizerTest, ManyThreads) {
    const Tokenizer tokenizer = load(bpe());
    const std::vector<std::int32_t> want = tokenizer.encode("ab ab e\xCC\x81").ids;
    std::vector<std::thread> threads;
    std::vector<int> wrong(4, 0);
    for (int& count : wrong) {
        threads.emplace_back([&] {
            for (int i = 0; i < 200; ++i) count += tokenizer.encode("ab ab e\xCC\x81").ids == want ? 0 : 1;
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_THAT(wrong, testing::Each(0));
}

}  // namespace
}  // namespace aerogel
