"""The commands of docs/own_data.md are understood: arguments, configuration files and keys."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from ga_detectron2.engine import load_config

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "own_data.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line) for line in blocks.splitlines() if line.strip()]


@pytest.mark.parametrize("words", commands(), ids=lambda words: Path(words[1]).stem)
def test_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("sys.argv", words[1:])
    assert words[0] == "python"
    args = runpy.run_path(str(PROJECT / words[1]))["parse_args"](words[2:])
    opts = getattr(args, "opts", [])
    if getattr(args, "config_file", None):
        cfg = load_config(args.config_file, opts)  # The data sets of the page are not there.
        if "check_dataset" not in words[1]:
            named = {x.split("=")[0] for x in args.dataset}
            assert named <= {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    else:
        assert not opts


def test_pictures_and_links_are_there() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE)
    assert len(links) >= 5
    for link in links:
        assert (PROJECT / "docs" / link).is_file(), link
