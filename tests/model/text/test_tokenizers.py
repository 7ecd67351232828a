"""Our tokenizers beside Hugging Face's `tokenizers` and Google's `sentencepiece`: the same ids for any text, with the
settings of the models that people use and with others that the formats allow."""

import json
import struct

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_files import (Ours, corpus, qwen, texts, train_sentencepiece,
                             umt5)
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

MANY = settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
FEW = settings(MANY, max_examples=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def spiece(folder):
    return train_sentencepiece(folder)


@pytest.fixture(scope="module")
def ours(build):
    """ours(path) -> an Ours; all are ended with the module."""
    started = []

    def start(path):
        started.append(Ours(build, path))
        return started[-1]

    yield start
    for process in started:
        process.close()


def save(tokenizer, path):
    tokenizer.save(str(path))
    return path


def same(ours, ids_of, limit=MANY, strategy=texts):
    """Every text of hypothesis has the same ids."""

    @limit
    @given(strategy)
    def check(text):
        answer = ours.ask(text=text)
        assert answer.get("ids") == ids_of(text), answer

    check()


def same_for_every_character(ours, ids_of, form):
    """Every character in the places of `form`; the more likely ones are never left out."""
    characters = [c for c in range(0x20000) if not 0xD800 <= c < 0xE000] + list(range(0x20000, 0x110000, 97))
    for first in range(0, len(characters), 512):
        some = [form.replace("@", chr(c)) for c in characters[first : first + 512]]
        text = "".join(some)
        if ours.ask(text=text)["ids"] != ids_of(text):
            wrong = [part for part in some if ours.ask(text=part)["ids"] != ids_of(part)]
            pytest.fail(f"other ids for {wrong[:10]!a}")


def test_qwen(ours, folder):
    theirs = qwen()
    mine = ours(save(theirs, folder / "qwen.json"))
    same(mine, lambda text: theirs.encode(text).ids)
    same_for_every_character(mine, lambda text: theirs.encode(text).ids, "x@1@ @a\u0301@\u0323\u0334 ")
    long = "word" * 2000 + "\u0323\u0301" * 500 + " " * 3000 + "\n" * 500 + "猫" * 3000
    assert mine.ask(text=long)["ids"] == theirs.encode(long).ids


@pytest.mark.parametrize("steps", ["plain", "strip", "t5", "first"])
def test_umt5(ours, folder, spiece, steps):
    more = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")] if steps == "strip" else []
    space = pre_tokenizers.Metaspace("▁", "first" if steps == "first" else "always")
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    theirs = umt5(spiece, split if steps == "t5" else space, more)
    mine = ours(save(theirs, folder / f"umt5_{steps}.json"))
    same(mine, lambda text: theirs.encode(text).ids)
    if steps == "plain":
        same_for_every_character(mine, lambda text: theirs.encode(text).ids, "ª@ ①@ \u0600@\r@ ")


SENTENCEPIECE = {
    "t5": {},
    "bytes": {"byte_fallback": True, "vocab_size": 900},
    "user_defined": {"user_defined_symbols": ["<sep>", "猫", "  ", "ab", "①", "👍🏽"]},
    "case_folded": {"normalization_rule_name": "nmt_nfkc_cf"},
    "identity": {"normalization_rule_name": "identity"},
    "all_spaces": {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True},
    "no_prefix": {"add_dummy_prefix": False},
    "suffix": {"treat_whitespace_as_suffix": True},
}


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_sentencepiece(ours, tmp_path, name):
    path = train_sentencepiece(tmp_path, **SENTENCEPIECE[name])
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    mine = ours(path)
    same(mine, lambda text: [*theirs.encode(text), theirs.eos_id()])
    assert mine.ask(text="a", add_special_tokens=False)["ids"] == theirs.encode("a")
    if name == "t5":
        same_for_every_character(mine, lambda text: [*theirs.encode(text), theirs.eos_id()], "ª@ ①@@ ")


def test_qwen_without_a_tokenizer_json(ours, tmp_path):
    """vocab.json and merges.txt with what tokenizer_config.json adds, beside the class of transformers."""
    from transformers import Qwen2Tokenizer

    trained = json.loads(qwen().to_str())
    (tmp_path / "vocab.json").write_text(json.dumps(trained["model"]["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in trained["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    added = {str(token.pop("id")): token for token in trained["added_tokens"]}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "pad_token": "<|endoftext|>", "padding_side": "right"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = Qwen2Tokenizer.from_pretrained(tmp_path)
    mine = ours(tmp_path)
    same(mine, lambda text: theirs(text).input_ids, FEW)
    for text in ("", "a cat", "<|im_start|>user\n" + "a red cat on a sofa, " * 20 + "<|im_end|>\n"):
        padded = theirs(text, padding="max_length", truncation=True, max_length=32)
        answer = mine.ask(text=text, pad=True, max_length=32)
        assert (answer["ids"], answer["mask"]) == (padded.input_ids, padded.attention_mask)


def test_t5_of_transformers(ours, tmp_path, spiece):
    """A folder as pipelines hold it; T5's class has its own steps, which give the same for text with single spaces."""
    from transformers import AutoTokenizer

    save(umt5(spiece), tmp_path / "tokenizer.json")
    config = {"tokenizer_class": "T5TokenizerFast", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    mine = ours(tmp_path)
    for text in ("", "A cat walks on the grass, realistic", "一只猫", "word " * 60 + "end"):
        padded = theirs(text, padding="max_length", truncation=True, max_length=24)
        answer = mine.ask(text=text.strip(), pad=True, max_length=24)
        assert (answer["ids"], answer["mask"]) == (padded.input_ids, padded.attention_mask)


def test_cut_and_padded(ours, folder, spiece):
    theirs = umt5(spiece)
    mine = ours(save(theirs, folder / "cut.json"))
    for side in ("right", "left"):
        theirs.enable_truncation(12, direction=side)
        theirs.enable_padding(direction=side, pad_id=0, pad_token="<pad>", length=12)
        mine = ours(save(theirs, folder / f"cut_{side}.json"))
        for text in ("", "a cat", "a very long text about a cat that sits on a red sofa by the window"):
            encoding = theirs.encode(text)
            answer = mine.ask(text=text, pad=True, max_length=12)
            assert (answer["ids"], answer["mask"]) == (encoding.ids, encoding.attention_mask)
    assert mine.ask(text="a cat", max_length=1)["ids"] == [1]
    assert "max_length must be at least 1" in mine.ask(text="a cat", max_length=0)["error"]


def test_added_tokens(ours, folder):
    """The flags of added tokens in every combination, some of them of the normal form."""
    theirs = qwen()
    for flags in range(16):
        single_word, lstrip, rstrip, normalized = (bool(flags >> bit & 1) for bit in range(4))
        theirs.add_tokens([AddedToken(f"[{flags}]", single_word=single_word, lstrip=lstrip, rstrip=rstrip, normalized=normalized),
                           AddedToken(f"[{flags}]e\u0301", normalized=normalized, lstrip=rstrip)])
    theirs.add_tokens([AddedToken("word", single_word=True), AddedToken("wor"), AddedToken(" \t", rstrip=True)])
    mine = ours(save(theirs, folder / "added.json"))
    parts = st.sampled_from([f"[{i}]" for i in range(16)] + ["e\u0301", "é", " ", "\n", "\u3000", "word", "wor", "a", "_", "1", "猫", "\t", "\u0301", "Ⓐ", "-"])

    same(mine, lambda text: theirs.encode(text).ids, MANY, st.lists(parts, max_size=12).map("".join))


@pytest.mark.parametrize("options", [{}, {"unk_token": "<unk>"}, {"unk_token": "<unk>", "fuse_unk": True}, {"ignore_merges": True},
                                     {"byte_fallback": True, "unk_token": "<unk>"}, {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}])
def test_bpe_without_bytes(ours, tmp_path, options):
    """BPE over characters: what is unknown, and words that are not cut."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>"] + [f"<0x{byte:02X}>" for byte in range(0x80, 0xF0)]
    trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=900, limit_alphabet=150, special_tokens=special, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    theirs = Tokenizer(models.BPE(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]], **options))
    theirs.pre_tokenizer = pre_tokenizers.Metaspace()
    mine = ours(save(theirs, tmp_path / "bpe.json"))
    same(mine, lambda text: theirs.encode(text).ids, FEW)


def test_every_character_is_cut_alike(ours, tmp_path):
    """Merges of any byte with x show on which side of a cut it lies."""
    theirs = qwen()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("x", byte) for byte in alphabet] + [(byte, "x") for byte in alphabet if byte != "x"]
    vocabulary = {token: i for i, token in enumerate(alphabet + [left + right for left, right in merges])}
    theirs.model = models.BPE(vocab=vocabulary, merges=merges)
    mine = ours(save(theirs, tmp_path / "cut.json"))
    same_for_every_character(mine, lambda text: theirs.encode(text).ids, "x@x!@x 1@x ")


def test_gpt2(ours, tmp_path):
    """The byte level's own pattern, with a space in front, and a template around."""
    theirs = qwen()
    theirs.normalizer = None
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    theirs.post_processor = processors.Sequence([
        processors.ByteLevel(), processors.TemplateProcessing(single="<|im_start|> $A <|im_end|>", special_tokens=[
            (token, theirs.token_to_id(token)) for token in ("<|im_start|>", "<|im_end|>")])])
    mine = ours(save(theirs, tmp_path / "gpt2.json"))
    same(mine, lambda text: theirs.encode(text).ids, FEW)
    assert mine.ask(text="a", max_length=3)["ids"] == theirs.encode("a").ids


def test_unigram_scores(ours, tmp_path):
    """Unknown text that beats known pieces, equal sums, pieces of bytes."""
    # A character that is unknown counts 25 - 10.
    pieces = [("<unk>", 25.0), ("a", 30.0), ("b", 30.0), ("ab", 60.0), ("abc", 90.0), ("cd", 31.0), ("▁", 25.0), ("xy", 30.5), ("yz", 29.5), ("é", 26.0)]
    for byte_fallback in (False, True):
        bytes_ = [(f"<0x{byte:02X}>", -1.0) for byte in range(256)] if byte_fallback else []
        theirs = Tokenizer(models.Unigram(pieces + bytes_, unk_id=0, byte_fallback=byte_fallback))
        mine = ours(save(theirs, tmp_path / f"scores_{byte_fallback}.json"))
        same(mine, lambda text, theirs=theirs: theirs.encode(text).ids, FEW, st.one_of(st.text("abcdxy▁éz", max_size=12), texts))


def varint(number):
    return bytes([number & 127 | 128, *varint(number >> 7)]) if number > 127 else bytes([number])


def spiece_model(pieces):
    """A spiece.model of (text, score, type)."""
    model = b""
    for text, score, kind in pieces:
        piece = b"\x0a" + varint(len(text.encode())) + text.encode() + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind)
        model += b"\x0a" + varint(len(piece)) + piece
    return model


def test_ways_of_nearly_the_same_sum(ours, tmp_path):
    """Sums are rounded as in SentencePiece, to float32, or as in Hugging Face's tokenizers, to float64."""
    normal = {"▁": -1.1, "a": -2.1, "b": -2.3, "c": -2.7, "ab": -4.4, "bc": -5.0, "ca": -4.8, "bb": -4.6, "abc": -7.1, "cc": -5.4, "aa": -4.2, "aaa": -6.3}
    model = spiece_model([("<unk>", 0, 2), ("</s>", 0, 3), ("cb", 0, 4), ("aab", 0, 4), *((text, score, 1) for text, score in normal.items())])
    (tmp_path / "spiece.model").write_bytes(model)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    mine = ours(tmp_path)
    same(mine, lambda text: [*theirs.encode(text), theirs.piece_to_id("</s>")], MANY, st.text("abcabcabcd ", max_size=40))
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), *normal.items()], unk_id=0))
    mine = ours(save(unigram, tmp_path / "unigram.json"))
    same(mine, lambda text: unigram.encode(text).ids, MANY, st.text("abcabcabcd▁", max_size=40))


PATTERNS = [
    # GPT-2, Llama 3, Qwen 3.5, GPT-4, GPT-4o, DeepSeek V3
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[一-龥぀-ゟ゠-ヿ]+", r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # what else is let through
    r"^.+$", r"$", r"^", r"\A.|.\z|.\Z", r"(?<=a)b|(?<!a)c|a(?=b)|c(?!b)", r"(?>a+|b)a|(?:ab?)+?c", r"a{2}|b{,2}c|c{1,2}?|1{2,}", r"(a|b*)*c|(?:a??|b)*1",
    r"\d+|\D\S|\P{L}b", r"\u0061\x62|\x{63}|\v|\t|\f|[\x{61}-\x63\-]1|]|}", r"(?i:k|s)", r"(?i:[ks]1)", r"a|", r"(?=a)|(?<=b)", r"(?:|a)+b", r"[a-]|[-1]|[^-b]\\",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(ours, tmp_path, pattern):
    """The text is cut where Oniguruma cuts it: a mark that is in no text stands before every word."""
    steps = [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
             pre_tokenizers.Metaspace("▁", "always", split=False)]
    alphabet = {character: i for i, character in enumerate(["▁", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    theirs = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    theirs.pre_tokenizer = pre_tokenizers.Sequence(steps)
    mine = ours(save(theirs, tmp_path / "pattern.json"))
    same(mine, lambda text: theirs.encode(text).ids, FEW, st.one_of(texts, st.text("abc1 \n-", max_size=12), st.text("aAkKsS1'lLvVeErR\u017f\u212a\r\n \u180eéÉ\u0301", max_size=12)))


@pytest.mark.parametrize("name", ["qwen", "umt5"])
def test_decode(ours, folder, spiece, name):
    theirs = qwen() if name == "qwen" else umt5(spiece)
    mine = ours(save(theirs, folder / f"decode_{name}.json"))

    @FEW
    @given(st.lists(st.integers(0, theirs.get_vocab_size() - 1), max_size=20))
    def check(ids):
        answer = mine.ask(ids=ids)
        assert answer["text"] == theirs.decode(ids)
        assert answer["whole"] == theirs.decode(ids, skip_special_tokens=False)

    check()
    answer = mine.ask(text="A cat. ")
    assert answer["text"] == theirs.decode(answer["ids"])
    assert "is not the id of a token" in mine.ask(ids=[10**6])["error"]
