"""Generated text: the sentences of a small grammar."""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field, NonNegativeInt

from zoo import Dataset, Split
from zoo_sequences.text import code_points, tokenized

NOUNS = ("cat", "dog", "bird", "child", "robot", "king")
ADJECTIVES = ("", "small ", "old ", "red ", "happy ")
ARTICLES = ("a", "the", "my")
VERBS = ("sees", "likes", "follows", "hears")
INTRANSITIVE = ("sleeps", "sings", "waits")
LENGTH = 40
"""Characters of the longest sentence, `the happy child follows the happy child`, and its end."""


def sentences(examples: Annotated[int, Field(ge=2)] = 4000, data_seed: NonNegativeInt = 0) -> Dataset:
    """Sentences such as ``the old king sees a bird``, character by character. A fifth of them are test sentences.

    A sentence is a noun phrase with an intransitive verb (one time in three), or with a transitive verb and another
    noun phrase. A noun phrase is an article, perhaps an adjective, and a noun, each drawn uniformly.

    Args:
        examples: number of sentences.
        data_seed: determines every sentence.
    """
    draw = random.Random(data_seed)

    def phrase() -> str:
        return f"{draw.choice(ARTICLES)} {draw.choice(ADJECTIVES)}{draw.choice(NOUNS)}"

    def sentence() -> str:
        if draw.random() < 1 / 3:
            return f"{phrase()} {draw.choice(INTRANSITIVE)}"
        return f"{phrase()} {draw.choice(VERBS)} {phrase()}"

    points = Split(code_points([sentence() for _ in range(examples)], LENGTH))
    held = max(1, examples // 5)
    return tokenized(Dataset(points.part(held, examples), points.part(0, held)), LENGTH)
