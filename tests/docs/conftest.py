"""A shadow of the project for the commands of pages."""

from pathlib import Path

import pytest

from tests.docs.shell_commands import make_shadow


@pytest.fixture(scope="session")
def shadow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See ``shell_commands.commands_of``."""
    folder = tmp_path_factory.mktemp("shadow")
    make_shadow(folder)
    return folder
