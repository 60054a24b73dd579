"""The syntax of CIF: from the text of a file to its tables, with the line that each row begins in."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from molsampler.basis.errors import InputError

# A quoted value ends at a quote that a blank follows: 'a dog's life' is one. A # inside a word is part of the word.
_TOKEN = re.compile(r"""'(?P<single>.*?)'(?=\s|$)|"(?P<double>.*?)"(?=\s|$)|(?P<comment>\#.*)|(?P<word>\S+)""")
_RESERVED = re.compile(r"(data_|save_|loop_$|stop_$|global_$)", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """A row of a table. line : it begins in, from 1;  values : by column, those that are given (not "." or "?")"""

    line: int
    values: dict[str, str]

    def get(self, *columns: str) -> str:
        """The first of these columns' values that is given; an empty string where none is."""
        return next((self.values[column] for column in columns if column in self.values), "")


@dataclass(frozen=True)
class _Token:
    line: int
    text: str
    plain: bool = True  # without quotes: may be a name or a reserved word, "." and "?" stand for nothing

    @property
    def is_name(self) -> bool:
        return self.plain and self.text.startswith("_")

    @property
    def is_value(self) -> bool:
        return not self.plain or not (self.text.startswith("_") or _RESERVED.match(self.text))


Tables = dict[str, list[Row]]


def read_cif(text: str, where: str, categories: Collection[str]) -> list[Tables]:
    """{category: its rows} of each data block, for these categories; names are in lower case.

    where : names the file in messages
    Raises InputError, with the line, for what is no CIF: values out of place, rows and quotes that do not end.
    """
    blocks: list[Tables] = []
    tokens = list(_tokens(text, where))
    k = 0
    while k < len(tokens):
        token = tokens[k]
        word = token.text.lower()
        if token.plain and word.startswith("data_"):
            blocks.append({})
            k += 1
        elif not blocks:
            raise InputError(
                f"{where}, line {token.line}: '{token.text}' comes before data_, which a CIF file begins with"
            )
        elif token.plain and word == "loop_":
            k = _read_loop(tokens, k + 1, blocks[-1], where, categories)
        elif token.is_name:
            k = _read_item(tokens, k, blocks[-1], where, categories)
        else:
            raise InputError(f"{where}, line {token.line}: '{token.text}' is out of place; the CIF file is damaged")
    return blocks


def _tokens(text: str, where: str) -> Iterator[_Token]:
    lines = iter(enumerate(re.split(r"\r\n|\r|\n", text), 1))
    for number, line in lines:
        if line.startswith(";"):  # a text of several lines, up to a line that begins with a semicolon
            begin, parts = number, [line[1:]]
            number, line = next(lines, (0, ";"))
            while not line.startswith(";"):
                parts.append(line)
                number, line = next(lines, (0, ";"))
            if not number:
                raise InputError(f"{where}, line {begin}: the text that begins with ';' has no end")
            yield _Token(begin, "\n".join(parts), plain=False)
            line = f" {line[1:]}"
        for match in _TOKEN.finditer(line):
            if match.lastgroup == "word" and match.group()[0] in "'\"":
                raise InputError(f"{where}, line {number}: the quote before {match.group()[1:]} has no end")
            if match.lastgroup == "word":
                yield _Token(number, match.group())
            elif match.lastgroup != "comment":
                yield _Token(number, match.group(match.lastgroup), plain=False)


def _read_item(tokens: list[_Token], k: int, block: Tables, where: str, categories: Collection[str]) -> int:
    """Takes the name at k and its value into the one row of the category; returns where to go on."""
    name, value = tokens[k], tokens[k + 1] if k + 1 < len(tokens) else None
    if value is None or not value.is_value:
        raise InputError(f"{where}, line {name.line}: {name.text} has no value; the CIF file is damaged")
    category, column = _split(name)
    if category in categories:
        rows = block.setdefault(category, [Row(name.line, {})])
        rows[-1].values.update(_given([column], [value]))
    return k + 2


def _read_loop(tokens: list[_Token], k: int, block: Tables, where: str, categories: Collection[str]) -> int:
    """Takes the names and rows of the loop that begins at k; returns where to go on."""
    first = k
    while k < len(tokens) and tokens[k].is_name:
        k += 1
    names = tokens[first:k]
    if not names:
        raise InputError(f"{where}, line {tokens[first - 1].line}: loop_ without columns; the CIF file is damaged")
    begin = k
    while k < len(tokens) and tokens[k].is_value:
        k += 1
    values = tokens[begin:k]
    category, columns = _split(names[0])[0], [_split(name)[1] for name in names]
    if category in categories:
        left = len(values) % len(columns)
        if left:
            raise InputError(
                f"{where}, line {values[-left].line}: the last row of _{category} has {left} values for {len(columns)} "
                "columns; the file is cut off or damaged"
            )
        rows = [values[i : i + len(columns)] for i in range(0, len(values), len(columns))]
        block[category] = [Row(row[0].line, _given(columns, row)) for row in rows]
    return k


def _split(name: _Token) -> tuple[str, str]:
    """Category and column of a name, in lower case: _atom_site.id"""
    category, _, column = name.text[1:].lower().partition(".")
    return category, column


def _given(columns: list[str], values: list[_Token]) -> dict[str, str]:
    return {
        column: value.text
        for column, value in zip(columns, values, strict=True)
        if not (value.plain and value.text in (".", "?"))
    }
