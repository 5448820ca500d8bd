"""``python -m ga_detectron2.model_zoo`` prints the tables of ``docs/model_zoo.md``.

``python -m ga_detectron2.model_zoo Base-GARPN`` prints the path of a configuration.
"""

import sys
from collections.abc import Iterator

from ga_detectron2.errors import ModelZooError

from .published import IMAGENET_BACKBONES, PUBLISHED_MODELS, PublishedModel
from .zoo import get_config_file


def render_tables() -> str:
    """The tables of the published models and backbones, in Markdown."""
    return "\n".join(_render_lines()) + "\n"


def _render_lines() -> Iterator[str]:
    for method in dict.fromkeys(model.method for model in PUBLISHED_MODELS):
        models = [model for model in PUBLISHED_MODELS if model.method == method]
        metric = models[0].metric.replace("AR1000", "AR@1000")
        yield f"## {method}\n"
        yield f"| name | {metric} | backbone | style | memory (GB) | images/s | weights |"
        yield "| --- | ---: | --- | --- | ---: | ---: | --- |"
        yield from map(_render_row, models)
        yield ""
    yield "## Backbones\n"
    yield "| name | weights |"
    yield "| --- | --- |"
    for name, file in IMAGENET_BACKBONES.items():
        yield f"| `ga://{name}` | [pth]({file.url}) `{file.sha256_prefix}` |"


def _render_row(model: PublishedModel) -> str:
    cells = (
        f"[{model.name}](../configs/{model.name}.yaml)",
        f"{model.coco_val2017:.1f}",
        model.backbone,
        model.style,
        f"{model.train_mem_gb:.1f}",
        "" if model.inference_fps is None else f"{model.inference_fps:.1f}",
        f"[pth]({model.weights_url}) `{model.sha256_prefix}`, [log]({model.log_url})",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables, or the path of the configuration that the command line names."""
    try:
        print(get_config_file(sys.argv[1]) if sys.argv[1:] else render_tables().rstrip())
    except ModelZooError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
