"""Every package that tools/setup_env.sh installs is pinned, with the hashes of its files."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PINNED = ("requirements.txt", "requirements/bootstrap.txt", "requirements/detectron2.txt")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?= |$)")


def entries(file: str) -> list[str]:
    """Requirements with their hashes, without comments, each as one line."""
    lines = (PROJECT / file).read_text(encoding="utf-8").splitlines()
    text = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in lines)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("file", PINNED)
def test_versions_and_hashes(file: str) -> None:
    found = entries(file)
    assert found
    for entry in found:
        # No option that names another place, no address, no path: a name and a version.
        assert re.match(r"[\w.-]+(\[[\w,]+\])?==[\w.!+]+ ", entry), entry
        rest = HASH.sub("", entry.partition(";")[2] or entry.partition(" ")[2])
        assert HASH.search(entry), f"without a hash: {entry}"
        assert "--" not in rest, f"not a hash of SHA-256: {rest}"


@pytest.mark.parametrize(
    ("source", "pinned"),
    [
        ("requirements/base.in", "requirements.txt"),
        ("requirements/dev.in", "requirements.txt"),
        ("requirements/bootstrap.in", "requirements/bootstrap.txt"),
    ],
)
def test_what_is_asked_for_is_pinned(source: str, pinned: str) -> None:
    have = {normal(re.split(r"[=\[]", entry)[0]) for entry in entries(pinned)}
    asked = [entry for entry in entries(source) if not entry.startswith("-r ")]
    assert asked
    for entry in asked:
        name = re.match(r"[\w.-]+", entry)
        assert name is not None, entry
        assert normal(name[0]) in have, f"{source}: {entry} is not in {pinned}: pin again"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_setup_checks_hashes() -> None:
    script = (PROJECT / "tools" / "setup_env.sh").read_text(encoding="utf-8")
    commands = re.findall(r"^[^#\n]*pip install.*$", script, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        # Without hashes: what was made from checked files, and the project itself.
        local = "--no-deps" in command and (
            "pure_detectron2" in command or "--editable ." in command
        )
        assert local or "--require-hashes" in command or "options[@]" in command, command
    assert "options=(--require-hashes " in script
