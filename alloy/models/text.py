"""How many tokens a text has, without a tokenizer's tables; pure.

A text is counted by what it's made of: words by their length, digits in threes, runs of signs, white space, and characters of
other scripts. What each is worth was fitted to ``o200k_base``, OpenAI's tokenizer since GPT-4o, over prose in twenty
languages, code, JSON, and random base64 and hexadecimal.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LONGEST_TEXT", "estimated_tokens", "sampled"]

LONGEST_TEXT = 32_768
"""Up to how many characters a text is counted whole."""
_SLICES = 8

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_DIGITS = re.compile(r"[0-9]+")
_SIGNS = re.compile(r"[!-/:-@\[-`{-~]+")
_INDENT = re.compile(r"[ \t]{2,}")
_LINES = re.compile(r"[\r\n]+")
_LINES_BEHIND_SIGNS = re.compile(r"(?<=[!-/:-@\[-`{-~])[\r\n]+")

_OF_WORD = (0.0, 0.6, 1.6, 1.0, 0.9, 0.9, 0.9, 1.0, 1.0, 1.1, 1.4, 1.6)
"""What a piece of an ASCII word costs, by its length; from there on, a fifth more for each letter."""
_OF_SIGNS = (0.0, 0.6, 1.2, 1.2)
_SCRIPTS = (
    ("\u00a1-\u024f\u1e00-\u1eff", 0.7),  # Latin with accents
    ("\u0370-\u03ff\u1f00-\u1fff", 0.45),  # Greek
    ("\u0400-\u052f", 0.33),  # Cyrillic
    ("\u0590-\u05ff", 0.46),  # Hebrew
    ("\u0600-\u077f", 0.37),  # Arabic
    ("\u0900-\u0dff", 0.43),  # Indian scripts
    ("\u0e00-\u0eff", 0.4),  # Thai, Lao
    ("\u3040-\u30ff", 0.6),  # Kana
    ("\u3400-\u9fff", 0.75),  # Han
    ("\uac00-\ud7af\u1100-\u11ff", 0.75),  # Hangul
    ("\u3000-\u303f\uff00-\uffef", 1.2),  # their signs
    ("\u2000-\u2bff", 1.3),  # signs, arrows, symbols
    ("\U00010000-\U0010ffff", 2.0),  # emoji, rare characters
)
_RATES = tuple((re.compile(f"[{characters}]+"), rate) for characters, rate in _SCRIPTS)
_OTHER = re.compile("[^\x00-\x7f" + "".join(characters for characters, _ in _SCRIPTS) + "]+")
_OF_OTHER = 1.2


def estimated_tokens(text: str) -> float:
    """About how many tokens a text has.

    Args:
        text: any text; of one longer than `LONGEST_TEXT`, samples are taken.
    """
    return sampled(text, _estimate)


def sampled(text: str, count: Callable[[str], float]) -> float:
    """What `count` gives for a text; where it's long, for slices from all over it, made as much more.

    So the time is bounded.
    """
    if len(text) <= LONGEST_TEXT:
        return count(text)
    length = LONGEST_TEXT // _SLICES
    step = (len(text) - length) / (_SLICES - 1)
    starts = (round(step * index) for index in range(_SLICES))
    return sum(count(text[start : start + length]) for start in starts) * len(text) / LONGEST_TEXT


def _estimate(text: str) -> float:
    tokens = 0.0
    for length, times in Counter(map(len, _WORD.findall(text))).items():
        most = len(_OF_WORD) - 1
        tokens += times * (_OF_WORD[length] if length <= most else _OF_WORD[most] + 0.2 * (length - most))
    for length, times in Counter(map(len, _SIGNS.findall(text))).items():
        most = len(_OF_SIGNS) - 1
        tokens += times * (_OF_SIGNS[length] if length <= most else 1.7 + 0.02 * (length - most))
    tokens += 1.2 * sum((length + 2) // 3 for length in map(len, _DIGITS.findall(text)))
    tokens += 0.7 * len(_INDENT.findall(text))
    tokens += 1.2 * len(_LINES.findall(text)) - 0.7 * len(_LINES_BEHIND_SIGNS.findall(text))
    if not text.isascii():
        tokens += sum(rate * sum(map(len, pattern.findall(text))) for pattern, rate in _RATES)
        tokens += _OF_OTHER * sum(map(len, _OTHER.findall(text)))
    return tokens
