"""Small tokenizers for the tests, trained on corpus.txt (English, Markdown and code) and a few lines in other scripts,
with the settings of the models that people use: Qwen's byte-level BPE, T5's and UMT5's unigram. What they are compared with is Hugging Face's
`tokenizers` and Google's `sentencepiece`."""

import json
import pathlib
import subprocess

import sentencepiece
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
QWEN_WORDS = ["<think>", "</think>", "<tool_call>"]
OTHER_SCRIPTS = [
    "一只猫坐在红色的沙发上，窗外下着雨。", "赤い靴を履いた猫が走っている。", "고양이가 창가에 앉아 있다.",
    "Der Käfer läuft über die Straße.", "Été, où les élèves rêvent à Noël.", "Кошка сидит на окне и смотрит на дождь.",
    "قطة حمراء تجلس على الأريكة", "बिल्ली खिड़की पर बैठी है।", "Η γάτα κάθεται στο παράθυρο.", "חתול אדום יושב על הספה",
    "แมวสีแดงนั่งอยู่", "👩‍👩‍👧 🇩🇪 ❤️ 🏳️‍🌈 👍🏽", "ﬁne ½ ² № ａｂｃ ①②③", "e\u0301 o\u0308 n\u0303 \u1e9b\u0323",
]


def corpus():
    """Lines to train on."""
    return pathlib.Path(__file__).with_name("corpus.txt").read_text().splitlines() + OTHER_SCRIPTS * 8


def qwen(vocabulary=1500):
    """Qwen's tokenizer with a small vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in QWEN_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in QWEN_WORDS])
    return tokenizer


def train_sentencepiece(folder, **settings):
    """The path of a spiece.model with T5's special pieces."""
    settings = {"vocab_size": 700, "normalization_rule_name": "nmt_nfkc", "character_coverage": 0.995, **settings}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_prefix=str(folder / "spiece"), model_type="unigram", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, num_threads=1, **settings)
    return folder / "spiece.model"


def fields(message):
    """(number, value or bytes) of a protocol buffer, without a schema."""
    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    at = 0
    while at < len(message):
        key = varint()
        kind = key & 7
        length = {1: 8, 2: None, 5: 4}.get(kind, 0)
        value = varint() if kind in (0, 2) else message[at : at + length]
        if kind == 2:
            value, length = message[at : at + value], value
        yield key >> 3, value
        at += length


def charsmap(model):
    """The precompiled charsmap of a spiece.model."""
    normalizer = dict(fields(model.read_bytes()))[3]
    return dict(fields(normalizer))[2]


def umt5(model, pre_tokenizer=None, steps=()):
    """The tokenizer.json that UMT5's converter makes of a spiece.model, as a Tokenizer."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap(model)), *steps])
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken(f"<extra_id_{i}>", lstrip=i % 2 == 0, rstrip=i % 3 == 0, normalized=False) for i in range(6)])
    return tokenizer


class Ours:
    """Our tokenizer of a file or folder, in a process that answers line by line."""

    def __init__(self, build, path):
        self.process = subprocess.Popen([build / "tests/tokenize", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0
        self.process.stdout.close()


PIECES = [
    " ", "  ", "\n", "\r\n", "\r", "\t", "\u00a0", "\u3000", "\u2028", "\u180e", "\u200b", "\u0085", "\x00", "\x1f", "\x7f", "\ufeff",
    "'s", "'S", "'LL", "'\u017f", "don't", "l'été", "123", "１２３", "½", "①", "Ⅷ", "ª", "ﬁ", "ß", "İ", "Å", "Å", "e\u0301", "e\u0323\u0301",
    "\u0301", "\u0301\u0323", "\u1100\u1161\u11a8", "각", "가\u11a8", "猫", "赤い", "고양이", "ا\u0651", "क\u094dष", "ก\u0e33",
    "👍🏽", "👩\u200d👩\u200d👧", "🇩🇪", "🏳️\u200d🌈", "❤️", "1\ufe0f\u20e3", "▁", "▁▁", "<unk>", "</s>", "<pad>", "<extra_id_0>", "<extra_id_1>",
    "<extra_id_", "<|im_start|>", "<|im_end|>", "<|im_", "<think>", "</think>", "user\n", "assistant", "\\", "{}[]", "!!!", "...", "http://", "_", "a_b",
    "ﷺ", "㍿", "ｶﾞ", "Ω", "𝔄𝔟", "𠮷", "\U0010ffff", "\ue000", "\ufffd", "the", "quantized", "Aerogel",
]
characters = st.characters(exclude_categories=["Cs"])
texts = st.one_of(
    st.text(characters, max_size=40),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(characters, max_size=3), st.text("abc \n'", max_size=6)), max_size=14).map("".join),
    st.text(st.characters(categories=["Mn", "Mc", "Me", "Lo", "Zs"]), max_size=20),
    st.text(st.characters(max_codepoint=0x2FF), max_size=30),
)
