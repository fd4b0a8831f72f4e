"""The language of `asrgate models list --where`, compiled to one SQL condition with bound values.

    expression = term {"or" term}       term = factor {"and" factor}
    factor     = "not" factor | "(" expression ")" | field operator value
    operator   = "=" | "!=" | "<" | "<=" | ">" | ">="
    value      = number | 'text' | "text" | word

Fields: `name`, `version`, `revision`, `parent`, `owner`, `date` (ISO 8601; a day compares as its first second), `rtf`,
`bytes`, `tag` (equal if the model has the tag), and `wer_<set>` for the word error rate on a test set. A field that a
model does not state matches no comparison. Examples:

    wer_test < 0.1 and tag = 'pro'
    name = asrgate-en-small and not (date < 2026-01-01 or owner = ci)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hotswap.errors import BadQuery

_TOKEN = re.compile(
    r"""\s*(?:(?P<operator><=|>=|!=|=|<|>)|(?P<bracket>[()])|'(?P<single>[^']*)'|"(?P<double>[^"]*)"|"""
    r"""(?P<word>[A-Za-z0-9_.:+-]+))"""
)
_COLUMNS = ("name", "version", "revision", "parent", "owner", "date", "rtf", "bytes")
_NUMERIC = {"revision", "rtf", "bytes"}
_MAX_TOKENS = 200


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled query.

    Attributes:
        sql: For a WHERE clause over the table `models`; values are bound, never spliced in.
        values: The bound values, in order.
    """

    sql: str = "1"
    values: tuple[str | float, ...] = ()


def compile_query(text: str) -> Condition:
    """Compile a query; an empty one matches every model.

    Raises:
        BadQuery: It does not parse, or names a field that is not known.
    """
    tokens = _tokens(text)
    if not tokens:
        return Condition()
    parser = _Parser(tokens)
    condition = parser.expression()
    if parser.peek() is not None:
        msg = f"unexpected {parser.peek()!r}; join comparisons with 'and' or 'or'"
        raise BadQuery(msg)
    return condition


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str

    def __repr__(self) -> str:
        return repr(self.text)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match or len(tokens) == _MAX_TOKENS:
            msg = f"cannot read {text[position:].strip()[:20]!r}" if not match else f"longer than {_MAX_TOKENS} words"
            raise BadQuery(msg)
        kind = match.lastgroup or ""
        tokens.append(_Token("text" if kind in ("single", "double") else kind, match[kind]))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over the grammar in the module docstring."""

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens = tokens
        self._next = 0

    def peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def expression(self) -> Condition:
        return self._joined("or", lambda: self._joined("and", self._factor))

    def _joined(self, word: str, operand: Callable[[], Condition]) -> Condition:
        parts = [operand()]
        while self._accept("word", word):
            parts.append(operand())
        if len(parts) == 1:
            return parts[0]
        sql = f" {word.upper()} ".join(part.sql for part in parts)
        return Condition(f"({sql})", tuple(value for part in parts for value in part.values))

    def _factor(self) -> Condition:
        if self._accept("word", "not"):
            inner = self._factor()
            return Condition(f"NOT {inner.sql}", inner.values)
        if self._accept("bracket", "("):
            inner = self.expression()
            if not self._accept("bracket", ")"):
                msg = "a bracket is not closed"
                raise BadQuery(msg)
            return inner
        field = self._take({"word"}, "a field name")
        operator = self._take({"operator"}, f"an operator after {field!r}")
        return _comparison(field, operator, self._take({"word", "text"}, f"a value after {operator!r}"))

    def _accept(self, kind: str, text: str) -> bool:
        if self.peek() != _Token(kind, text):
            return False
        self._next += 1
        return True

    def _take(self, kinds: set[str], what: str) -> str:
        token = self.peek()
        if token is None or token.kind not in kinds:
            msg = f"expected {what}, found {token!r}" if token else f"expected {what} at the end"
            raise BadQuery(msg)
        self._next += 1
        return token.text


def _comparison(field: str, operator: str, value: str) -> Condition:
    """Compile one comparison; operators and columns come from the closed sets of this module."""
    if field == "tag":
        if operator not in ("=", "!="):
            msg = f"tags are equal or not, they have no order: tag {operator} {value!r}"
            raise BadQuery(msg)
        negation = "NOT " if operator == "!=" else ""
        sql = f"{negation}EXISTS (SELECT 1 FROM tags WHERE tags.id = models.id AND tag = ?)"  # noqa: S608
        return Condition(sql, (value,))
    if field.startswith("wer_") and len(field) > len("wer_"):
        sql = f"EXISTS (SELECT 1 FROM wer WHERE wer.id = models.id AND test_set = ? AND rate {operator} ?)"  # noqa: S608
        return Condition(sql, (field.removeprefix("wer_"), _number(field, value)))
    if field not in _COLUMNS:
        msg = f"no field {field!r}; there are {', '.join(_COLUMNS)}, tag and wer_<set>"
        raise BadQuery(msg)
    bound = _number(field, value) if field in _NUMERIC else value
    return Condition(f"({field} IS NOT NULL AND {field} {operator} ?)", (bound,))


def _number(field: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        msg = f"{field} is compared with a number, not {value!r}"
        raise BadQuery(msg) from None
