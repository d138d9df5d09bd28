"""How a question about pictures is written as tokens, and an answer read back: one template for training and use.

[CLS] pictures question [SEP] answer [SEP], and so on for further turns; [IMAGE] stands once for each visual token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from omma.models.preprocess import CLS, PAD, SEP, Processor, train_wordpiece

IMAGE = "[IMAGE]"


def chat_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A WordPiece tokenizer learned from texts, with a token for pictures as its last one."""
    tokenizer = train_wordpiece(texts, vocab_size - 1)
    tokenizer.add_special_tokens([IMAGE])
    return tokenizer


@dataclass(frozen=True)
class Chat:
    """The template of one model. tokens: visual tokens a picture.

    ValueError for a tokenizer without the token that stands for pictures.
    """

    processor: Processor
    tokens: int

    def __post_init__(self):
        if self.processor.tokenizer.token_to_id(IMAGE) is None:
            raise ValueError(f"the tokenizer has no {IMAGE}; it is no VLM's")

    def id_of(self, token: str) -> int:
        found = self.processor.tokenizer.token_to_id(token)
        assert found is not None
        return found

    @property
    def end_id(self) -> int:
        return self.id_of(SEP)

    @property
    def pad_id(self) -> int:
        return self.id_of(PAD)

    def pictures(self, number: int) -> list[int]:
        """How a conversation about so many pictures begins."""
        return [self.id_of(CLS)] + [self.id_of(IMAGE)] * (number * self.tokens)

    def turns(self, texts: Sequence[str]) -> list[list[int]]:
        """Questions or answers with the [SEP] that ends each. What looks like a special token in them is plain text."""
        tokenizer = self.processor.tokenizer
        tokenizer.encode_special_tokens = True
        try:
            found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        finally:
            tokenizer.encode_special_tokens = False
        return [[*encoding.ids, self.end_id] for encoding in found]

    def prompt(self, number: int, question: str) -> list[int]:
        """A question about so many pictures, up to where the answer begins."""
        return self.pictures(number) + self.turns([question])[0]

    def read(self, ids: Sequence[int]) -> str:
        """The words of an answer's ids, up to its [SEP]."""
        ids = list(ids)
        return self.processor.tokenizer.decode(ids[: ids.index(self.end_id)] if self.end_id in ids else ids)
