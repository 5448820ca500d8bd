"""What a YAML file must be, before detectron2 merges it, to be a configuration."""

import os
from collections.abc import Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]
from detectron2.utils.file_io import PathManager

from ga_detectron2.errors import ConfigError

__all__ = ["check_config_file"]

MOST_VALUES = 100_000
"""Aliases let a few lines stand for billions of values."""


def check_config_file(path: str, bases: tuple[str, ...] = ()) -> None:
    """Refuse a file, or a file that it is based on, that is not a mapping of keys to values.

    Says nothing of what detectron2 refuses in words that name the key: unknown keys, values of
    another type, and YAML that cannot be read.

    Args:
        path: whatever ``PathManager`` opens.
        bases: files that are based on this one.

    Raises:
        ConfigError: names the file and the key.
    """
    try:
        with PathManager.open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, OSError, ValueError):
        return  # detectron2 says why.
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply to be a configuration") from error
    if not isinstance(content, dict):
        what = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise ConfigError(
            f"{path}: {what}; a configuration is a mapping, such as 'MODEL:' with keys below it"
        )
    for number, (section, key, value) in enumerate(_items(content)):
        if number == MOST_VALUES:
            raise ConfigError(f"{path}: stands for more than {MOST_VALUES} values")
        if not isinstance(key, str):
            raise ConfigError(
                f"{path}: the key {key!r}{section and ' below ' + section} must be a name"
            )
        if value is None and not section:
            raise ConfigError(f"{path}: {key} has no value; remove it, or write keys below it")
    version = content.get("VERSION", 2)
    if version not in (1, 2) or isinstance(version, bool):
        raise ConfigError(f"{path}: VERSION {version!r} must be 2 (or 1, for old files)")
    named = content.get("_BASE_", [])
    for base in named if isinstance(named, list) else [named]:
        if not isinstance(base, str) or not _can_be_path(base):
            raise ConfigError(f"{path}: _BASE_ {base!r} must be the path of a YAML file")
        if "://" not in base:
            base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        chain = (*bases, os.path.realpath(path))
        if os.path.realpath(base) in chain:
            raise ConfigError(f"{path}: _BASE_ {base} is based on this file itself")
        check_config_file(base, chain)


def _can_be_path(text: str) -> bool:
    """Whether the system could have a file of this name."""
    try:
        return bool(os.fsencode(text)) and "\0" not in text
    except UnicodeEncodeError:
        return False


def _items(content: dict[Any, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Every section (as ``A.B``), key and value; a value of a list counts, too."""
    pending: list[tuple[str, Any]] = [("", content)]
    while pending:
        section, values = pending.pop()
        pairs = values.items() if isinstance(values, dict) else ((section, v) for v in values)
        for key, value in pairs:
            yield section, key, value
            if isinstance(value, dict | list):
                inner = f"{section}.{key}" if section else str(key)
                pending.append((inner if isinstance(values, dict) else section, value))
                # A name that repeats itself is a file that holds itself.
                if len(inner) > 10_000:
                    raise ConfigError(f"{section[:100]}...: is nested too deeply")
