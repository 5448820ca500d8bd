"""Unwritable outputs are reported before any work, with the option and the path."""

import os
import re
import stat
from pathlib import Path

import pytest

from ga_detectron2.engine.output_paths import check_output_file, check_output_folder
from ga_detectron2.errors import ConfigError
from tests.scripts import load_script


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    return tmp_path


def everything(place: Path) -> list[str]:
    return sorted(str(path) for path in place.rglob("*"))


def test_writable_paths_are_left_unchanged(place: Path) -> None:
    before = everything(place)
    check_output_file("--json", str(place / "new" / "newer" / "x.json"))
    check_output_file("--json", str(place / "file"))
    check_output_folder("--output", str(place / "new" / "newer"))
    check_output_folder("--output", str(place / "folder"))
    # A pipe, as of a shell's >(...), has no folder to make files in.
    os.mkfifo(place / "pipe")
    check_output_file("--json", str(place / "pipe"))
    assert stat.S_ISFIFO((place / "pipe").stat().st_mode)
    (place / "pipe").unlink()
    assert everything(place) == before
    assert (place / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("check", "path", "reason"),
    [
        (check_output_file, "{place}/folder", "is a folder"),
        (check_output_file, "{place}/file/x.json", "{place}/file is a file, not a folder"),
        (check_output_folder, "{place}/file", "is a file, not a folder"),
        (check_output_folder, "/proc/nothing/at/all", "no file can be made in /proc"),
    ],
)
def test_unwritable_path_is_refused(place: Path, check, path: str, reason: str) -> None:
    before = everything(place)
    path, reason = path.format(place=place), reason.format(place=place)
    with pytest.raises(ConfigError, match=f"^--there: {re.escape(path)} .*{re.escape(reason)}"):
        check("--there", path)
    assert everything(place) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_refused(place: Path) -> None:
    (place / "folder").chmod(0o555)
    with pytest.raises(ConfigError, match="Permission denied"):
        check_output_file("--json", str(place / "folder" / "x.json"))


ABSENT = ("--config-file", "absent.yaml")


@pytest.mark.parametrize(
    ("tool", "arguments", "option", "path"),
    [
        ("demo", (*ABSENT, "--input", "a.png"), "--json", "folder"),
        ("diagnose", ABSENT, "--json", "folder"),
        ("dump_proposals", ABSENT, "--output", "folder"),
        ("export_model", ABSENT, "--output", "file"),
        ("check_results", ("absent.json", "--annotations", "absent.json"), "--zip", "folder"),
        ("reproduce", (), "--output", "file"),
    ],
)
def test_tools_check_their_outputs_first(
    place: Path, tool: str, arguments: tuple[str, ...], option: str, path: str
) -> None:
    """Before its input, which does not exist."""
    target = str(place / path)
    before = everything(place)
    with pytest.raises(SystemExit, match=rf"^{tool}.py.*: error: {option}: {target} ") as stop:
        load_script(tool).main([*arguments, option, target])
    assert "\n" not in str(stop.value)
    assert everything(place) == before


def test_output_over_an_input_is_refused(place: Path) -> None:
    file = str(place / "file")
    (place / "link").symlink_to(place / "folder")
    (place / "folder" / "clip.mp4").write_text("kept")
    with pytest.raises(ConfigError, match=r"^--json: .* is an input and would be overwritten"):
        check_output_file("--json", f"{place}/folder/../file", inputs=["absent.json", file])
    with pytest.raises(ConfigError, match=r"^--output: .* holds the input .*clip\.mp4"):
        check_output_folder("--output", f"{place}/link", inputs=[f"{place}/folder/clip.mp4"])
    check_output_file("--json", str(place / "new.json"), inputs=[file])
    check_output_folder("--output", str(place / "new"), inputs=[f"{place}/folder/clip.mp4"])
