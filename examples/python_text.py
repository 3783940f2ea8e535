"""One file of Python source as training text: decode, normalise, measure, judge.

Plain functions of one file's bytes. Nothing here knows of flows, and `examine` is the whole of it
for a caller: bytes in, one row out, whatever the bytes are.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import threading
import tokenize
import unicodedata
import warnings
from dataclasses import dataclass
from typing import Any

KEPT, FILTERED, QUARANTINED = "kept", "filtered", "quarantined"
"""Outcomes. What is filtered was read and is not wanted; what is quarantined could not be read."""

_PARSED_AS = "<corpus>"
_parsing = threading.Lock()
"""Python 3.11 up to 3.11.7 counts nesting where threads share the count (CPython issue 106905)."""
_WORD_BYTES = bytes(c for c in range(256) if c >= 0x80 or chr(c).isalnum())
_LINE_END = re.compile(r"\r\n?")
_TRAILING = re.compile(r"[ \t\f]+$", re.MULTILINE)
_COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_LICENCE = re.compile(r"SPDX-License-Identifier|Copyright|Licensed under", re.IGNORECASE)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Unreadable(ValueError):
    """Bytes that are not text, by their own account. ``args``: the reason, and the detail."""


@dataclass(frozen=True)
class Rules:
    """What a file must be like to be kept."""

    max_bytes: int = 1_000_000
    max_line: int = 1_000
    """Characters in the longest line."""
    max_mean_line: float = 100.0
    """Characters in the mean line."""
    min_alnum: float = 0.25
    """Least share of letters and digits."""
    max_repeats: float = 0.7
    """Largest share of lines, blank ones aside, that occurred before in the file."""
    must_parse: bool = True
    """Only what this interpreter's own grammar accepts."""


def decode(raw: bytes) -> str:
    """Text of a source file, by its byte order mark or its PEP 263 cookie, else as UTF-8.

    Raises
    ------
    Unreadable
        It does not decode, or what it decodes to cannot be text.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
    except SyntaxError as error:  # an unknown cookie, a cookie against the mark, or no UTF-8 on top
        what = "unknown encoding" if "unknown" in str(error) else "not utf-8"
        raise Unreadable(what, str(error)) from None
    try:
        text = raw.decode(encoding)
        text.encode()  # some codecs give half characters
    except (ValueError, LookupError) as error:
        raise Unreadable(f"not {encoding.removesuffix('-sig')}", str(error)) from None
    if "\0" in text:
        raise Unreadable("binary", f"NUL at character {text.index(chr(0))}")
    return text


def normalise(text: str) -> str:
    """One spelling of the same text: NFC, lines end in a newline alone and without space."""
    text = _LINE_END.sub("\n", text.removeprefix("\ufeff"))
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = _TRAILING.sub("", text).strip("\n")
    return text + "\n" if text else ""


def measure(text: str) -> dict[str, Any]:
    """Quality features of a normalised text that is not empty. Shares are between 0 and 1."""
    lines = text[:-1].split("\n")
    told = [line for line in lines if line]
    data = text.encode()
    tree = _parse(text)
    docs, definitions, tests = _structure(tree)
    return {
        "lines": len(lines),
        "mean_line": len(text) / len(lines) - 1,
        "max_line": max(map(len, lines)),
        "alnum": 1 - len(data.translate(None, _WORD_BYTES)) / len(data),
        "comments": sum(map(len, _COMMENT.findall(text))) / len(text),
        "docstrings": docs / len(text),
        "repeats": 1 - len(set(told)) / len(told),
        "definitions": definitions,
        "tests": tests,
        "licence": _LICENCE.search(text, 0, 2_000) is not None,
        "parses": tree is not None,
    }


def _parse(text: str) -> ast.Module | None:
    # Once for the process, since `catch_warnings` would race with other threads.
    if not any(getattr(rule[3], "pattern", "") == _PARSED_AS for rule in warnings.filters):
        warnings.filterwarnings("ignore", module=_PARSED_AS)
    try:
        with _parsing:
            return ast.parse(text, _PARSED_AS)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
        return None


def _structure(tree: ast.Module | None) -> tuple[int, int, int]:
    """Characters in docstrings, definitions, and definitions of tests; of top levels and classes."""
    docs = definitions = tests = 0
    waiting: list[ast.AST] = [] if tree is None else [tree]
    while waiting:
        node = waiting.pop()
        body: list[ast.stmt] = getattr(node, "body")  # noqa: B009 - modules and definitions have one
        first = body[0].value if body and isinstance(body[0], ast.Expr) else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            docs += len(first.value)
        for child in body:
            if isinstance(child, _DEFINITIONS):
                definitions += 1
                tests += child.name.startswith(("test", "Test"))
                waiting.append(child)
    return docs, definitions, tests


def judge(features: dict[str, Any], rules: Rules) -> str:
    """The first rule that a text breaks, in words; empty if it is to be kept."""
    if rules.must_parse and not features["parses"]:
        return "does not parse"
    if features["max_line"] > rules.max_line:
        return "a line too long"
    if features["mean_line"] > rules.max_mean_line:
        return "lines too long"
    if features["alnum"] < rules.min_alnum:
        return "too few letters and digits"
    if features["repeats"] > rules.max_repeats:
        return "too many repeated lines"
    return ""


def examine(raw: bytes | Exception | None, rules: Rules) -> dict[str, Any]:
    """All there is to say of a file: its outcome, its text if that is kept, and its features.

    Parameters
    ----------
    raw
        Its bytes; or why they could not be read; or None, it is too large to be looked at.
    """
    if raw is None:
        return {"outcome": FILTERED, "reason": "too large"}
    if isinstance(raw, Exception):
        return {"outcome": QUARANTINED, "reason": type(raw).__name__, "detail": str(raw)}
    try:
        text = normalise(decode(raw))
    except Unreadable as error:
        reason, detail = error.args
        return {"outcome": QUARANTINED, "reason": reason, "detail": detail, "raw": raw}
    if not text:
        return {"outcome": FILTERED, "reason": "empty"}
    features = measure(text)
    if reason := judge(features, rules):
        return {"outcome": FILTERED, "reason": reason, **features}
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return {
        "outcome": KEPT,
        "text": text,
        "hash": digest.hex(),
        "draw": int.from_bytes(digest[:6], "big") / 2**48,
        "text_bytes": len(text.encode()),
        **features,
    }
