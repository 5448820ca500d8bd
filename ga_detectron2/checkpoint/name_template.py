"""Templates that read and write names with numbers."""

import re
from collections.abc import Mapping

__all__ = ["NameTemplate"]

_FIELD = re.compile(r"\{(\w+)(?:([+*])(\d+))?\}")


class NameTemplate:
    """A name with fields: ``res{stage+1}.{block}.conv1.weight``.

    ``{field}`` matches a value of that field, ``{field+2}`` and ``{field*2}`` an integer value
    plus, or times, two.
    """

    def __init__(self, text: str, fields: Mapping[str, str]) -> None:
        """
        Args:
            text: the name with its fields.
            fields: a regular expression for the values of each field.
        """
        self.text = text
        self._values = {}
        self._shifts: list[tuple[str, str | None, int]] = []
        pattern, end = "", 0
        for match in _FIELD.finditer(text):
            field, operation, number = match.groups()
            self._values[field] = re.compile(rf"\A(?:{fields[field]})\Z")
            self._shifts.append((field, operation, int(number or 0)))
            value = r"0|[1-9]\d*" if operation else fields[field]
            pattern += re.escape(text[end : match.start()]) + f"(?P<{field}>{value})"
            end = match.end()
        self._pattern = re.compile(rf"\A{pattern}{re.escape(text[end:])}\Z")

    def read(self, name: str) -> dict[str, str] | None:
        """The values of the fields in ``name``; None if it does not match."""
        match = self._pattern.match(name)
        if match is None:
            return None
        values = {}
        for field, operation, number in self._shifts:
            value = match[field]
            if operation == "+":
                value = str(int(value) - number)
            elif operation == "*":
                quotient, rest = divmod(int(value), number)
                value = "" if rest else str(quotient)
            if not self._values[field].match(value):
                return None
            values[field] = value
        return values

    def write(self, values: Mapping[str, str]) -> str:
        """The name with these values of its fields."""

        def fill(match: "re.Match[str]") -> str:
            value = values[match[1]]
            if match[2] == "+":
                return str(int(value) + int(match[3]))
            if match[2] == "*":
                return str(int(value) * int(match[3]))
            return value

        return _FIELD.sub(fill, self.text)
