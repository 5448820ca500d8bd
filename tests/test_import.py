"""What `import ga_detectron2` says where detectron2 is missing or lacks what is needed."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("detectron2", "detectron2, which is not installed"),
        ("detectron2.modeling.meta_arch.dense_detector", "needs v0.6 or newer"),
    ],
)
def test_missing_detectron2(missing, message):
    code = f"import sys; sys.modules[{missing!r}] = None; import ga_detectron2"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ImportError" in done.stderr.splitlines()[-1]
    assert message in done.stderr


@pytest.mark.parametrize("missing", ["cv2", "matplotlib"])
def test_pictures_ask_for_missing_packages(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import ga_detectron2.visualization"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: pictures need OpenCV and")


def test_everything_is_registered():
    code = (
        "import ga_detectron2\n"
        "from detectron2.data import DatasetCatalog\n"
        "from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY\n"
        "from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY\n"
        "META_ARCH_REGISTRY.get('GARetinaNet')\n"
        "PROPOSAL_GENERATOR_REGISTRY.get('GuidedAnchorRPN')\n"
        "BACKBONE_REGISTRY.get('build_ga_retinanet_resnet_fpn_backbone')\n"
        "assert {'ga_shapes_train', 'ga_shapes_val'} <= set(DatasetCatalog.list())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
