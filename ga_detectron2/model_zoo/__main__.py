"""``python -m ga_detectron2.model_zoo`` prints the table of ``docs/model_zoo.md``.

``python -m ga_detectron2.model_zoo Base-GARPN`` prints the path of a configuration.
"""

import sys

from ga_detectron2.errors import ModelZooError

from .published import PUBLISHED_MODELS, PublishedModel
from .zoo import get_config_file

_HEAD = """\
| name | score on val2017 | backbone | style | memory (GB) | images/s | weights |
| --- | --- | --- | --- | ---: | ---: | --- |
"""


def render_table() -> str:
    """The table of published models, in Markdown."""
    return _HEAD + "".join(_render_row(model) for model in PUBLISHED_MODELS)


def _render_row(model: PublishedModel) -> str:
    cells = (
        f"[{model.name}](../configs/{model.name}.yaml)",
        f"{model.metric.replace('AR1000', 'AR@1000')} {model.coco_val2017:.1f}",
        model.backbone,
        model.style,
        f"{model.train_mem_gb:.1f}",
        "" if model.inference_fps is None else f"{model.inference_fps:.1f}",
        f"[pth]({model.weights_url}) `{model.sha256_prefix}`, [log]({model.log_url})",
    )
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Print the table, or the path of the configuration that the command line names."""
    try:
        print(get_config_file(sys.argv[1]) if sys.argv[1:] else render_table().rstrip())
    except ModelZooError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
