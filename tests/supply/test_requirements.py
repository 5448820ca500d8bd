"""Every package that tools/setup_env.sh installs is pinned, with the hashes of its files."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PINNED = ("requirements.txt", "requirements/bootstrap.txt")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?= |$)")


def entries(file: str) -> list[str]:
    """Requirements with their hashes, without comments, each as one line."""
    lines = (PROJECT / file).read_text(encoding="utf-8").splitlines()
    text = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in lines)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.parametrize("file", PINNED)
def test_versions_and_hashes(file: str) -> None:
    found = entries(file)
    assert len(found) >= 4
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
        assert normal(name[0]) in have, f"{source}: {entry} is not in {pinned}: pin anew"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_hashes_are_checked_when_installing() -> None:
    script = (PROJECT / "tools" / "setup_env.sh").read_text(encoding="utf-8")
    assert "pins=(--require-hashes --no-build-isolation -r requirements.txt)" in script
    # Apart from what has hashes, only the project itself, without its dependencies.
    for line in re.findall(r"^.*pip install.*$", script, re.MULTILINE):
        command = line.partition("#")[0]
        if '"$python" -m pip' in command or "/bin/uv" in command:
            assert "--require-hashes" in command or "pins[@]" in command or (
                "--no-deps" in command and "--editable ." in command
            ), line  # fmt: skip
