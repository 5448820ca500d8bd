"""The pages of docs/recipes: their commands are understood, and every recipe has its place."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from ga_detectron2 import model_zoo
from ga_detectron2.engine import load_config
from ga_detectron2.engine.lazy_config import load_lazy_config
from tests.recipes.runs import CONFIGS, PROJECT
from tests.scripts import load_script

PAGES = sorted((PROJECT / "docs" / "recipes").glob("*.md"))
RECIPES = sorted(p.stem for p in (CONFIGS / "recipes").glob("*.yaml"))


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's sh blocks that call Python, in words."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    calls = [line.strip() for line in lines if line.strip().startswith("python ")]
    return [shlex.split(call.replace("$split", "val")) for call in calls]


COMMANDS = [(page.stem, words) for page in PAGES for words in commands(page)]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 15


@pytest.mark.parametrize(("page", "words"), COMMANDS)
def test_commands(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments are parsed as the tool does, and configs get their overrides; nothing is run."""
    monkeypatch.chdir(PROJECT)
    tool = Path(words[1])
    assert tool.parent.name == "tools"
    monkeypatch.setattr("sys.argv", words[1:])
    if tool.stem == "convert_checkpoint":
        assert load_script(tool.stem).parse_args().target.endswith(".pth")
        return
    args = load_script(tool.stem).parse_args(words[2:])
    if args.config_file.endswith(".py"):
        load_lazy_config(args.config_file, args.opts)
    else:
        cfg = load_config(args.config_file, args.opts)
        for dataset in args.dataset:
            assert dataset.split("=")[0] in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)


def test_every_recipe_is_on_its_page_and_in_the_index() -> None:
    index = (PROJECT / "docs" / "recipes" / "index.md").read_text()
    others = "".join(page.read_text() for page in PAGES if page.stem != "index")
    assert len(RECIPES) == 8
    for name in RECIPES:
        assert f"`recipes/{name}.yaml`" in index
        assert f"configs/recipes/{name}.yaml" in others
    for page in PAGES:
        if page.stem != "index":
            assert f"({page.name})" in index
            assert f"\n{page.stem}\n" in index  # the table of contents


def test_the_model_zoo_knows_recipes_and_lazy_configs() -> None:
    assert model_zoo.get_config("recipes/ga_mask_R_50").MODEL.MASK_ON
    assert not any("/" in name for name in model_zoo.list_names())
    for name in ("recipes/absent", "../configs/ga_rpn_R_50", "lazy/ga_rpn_R_50"):
        with pytest.raises(model_zoo.ModelZooError, match="no configuration"):
            model_zoo.get_config(name)
    cfg = model_zoo.get_lazy_config("ga_faster_R_50.py", trained=True)
    assert cfg.train.init_checkpoint == "ga://ga_faster_R_50"
    with pytest.raises(model_zoo.ModelZooError, match="no configuration 'lazy/ga_fast_R_50'"):
        model_zoo.get_lazy_config("ga_fast_R_50")


def test_the_config_of_ones_own(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "recipes" / "lazy_configs.md").read_text()
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    )
    cfg = load_lazy_config(str(tmp_path / "mine.py"), ["train.max_iter=10"])
    assert cfg.model.roi_heads.num_classes == 3
    assert cfg.model.roi_heads.box_predictor.num_classes == 3
    assert cfg.dataloader.evaluator.dataset_name == "parts_val"
    assert cfg.train.max_iter == 10
