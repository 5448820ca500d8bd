#!/usr/bin/env python
"""Store a model's proposals for a dataset in detectron2's format, for Fast R-CNN.

    tools/dump_proposals.py --config-file configs/ga_rpn_R_50.yaml --dataset-name coco_2017_train \\
        --output proposals/train.pkl --num-gpus 8 MODEL.WEIGHTS ga://ga_rpn_R_50

Weights are MODEL.WEIGHTS if given on the command line, else the last checkpoint in OUTPUT_DIR.
Images are split into shards, which all processes share, also across machines with a common --output
folder (docs/distributed.md). If interrupted, run the same command again to continue after the last
finished shard. Boxes are in pixels of the original images, at most MODEL.RPN.POST_NMS_TOPK_TEST per
image (1000; Fast R-CNN uses 300).

    tools/dump_proposals.py --from-mmdet proposals.pkl --dataset-name coco_2017_train \\
        --output proposals/train.pkl

converts an MMDetection proposal file instead, without executing pickled code.
"""

import argparse
import contextlib
import io
import os
from datetime import timedelta

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from pycocotools.coco import COCO

from ga_detectron2.data.proposal_files import read_mmdet_proposals, write_proposals
from ga_detectron2.engine import check_run, load_inference_model, read_inference_config
from ga_detectron2.engine.command_line import (
    add_config_file,
    add_dataset,
    add_number,
    add_overrides,
    add_processes,
    errors_in_one_line,
    make_parser,
)
from ga_detectron2.engine.output_paths import check_output_file
from ga_detectron2.engine.processes import is_torchrun, run_processes, share_threads, use_torchrun
from ga_detectron2.engine.proposal_dump import ProposalDump
from ga_detectron2.engine.run_config import check_dataset, register_arguments
from ga_detectron2.errors import ConfigError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    source = parser.add_argument_group("source")
    add_config_file(source, required=False)
    source.add_argument(
        "--from-mmdet", metavar="FILE.pkl", help="convert this MMDetection file instead"
    )
    source.add_argument(
        "--dataset-name",
        metavar="NAME",
        help="dataset (default: the one in DATASETS.TEST; required with --from-mmdet)",
    )
    add_dataset(source, "--dataset-name or DATASETS.TEST")
    target = parser.add_argument_group("output")
    target.add_argument("--output", required=True, metavar="FILE.pkl", help="file to write")
    text = "images per shard"
    add_number(target, "--shard-size", 500, text)
    add_processes(parser.add_argument_group("processes"))
    add_overrides(parser)
    args = parser.parse_intermixed_args(argv)
    if bool(args.config_file) == bool(args.from_mmdet):
        parser.error("exactly one of --config-file and --from-mmdet is needed")
    if args.from_mmdet and not args.dataset_name:
        parser.error("--from-mmdet needs --dataset-name, for the order of the images")
    return args


def open_dump(args: argparse.Namespace) -> tuple[ProposalDump, CfgNode]:
    """The dump of the dataset, and the checked configuration."""
    cfg = read_inference_config(args.config_file, args.opts, args.dataset)
    if args.dataset_name:
        cfg.DATASETS.TEST = (args.dataset_name,)
    check_run(cfg, args.num_gpus * args.num_machines, eval_only=True)
    if len(cfg.DATASETS.TEST) > 1:
        names = ", ".join(cfg.DATASETS.TEST)
        raise ConfigError(f"DATASETS.TEST has several datasets: choose --dataset-name from {names}")
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    return ProposalDump(args.output, cfg, records, args.shard_size), cfg


def work(args: argparse.Namespace) -> None:
    """The work of each process."""
    setup_logger(distributed_rank=comm.get_rank())
    setup_logger(name="ga_detectron2")  # Every process reports its shards.
    dump, cfg = open_dump(args)
    if cfg.MODEL.DEVICE == "cpu":
        share_threads()
    with errors_in_one_line("dump_proposals.py"):
        dump.run(load_inference_model(cfg), comm.get_rank(), comm.get_world_size())
    comm.synchronize()


def dump_proposals(args: argparse.Namespace) -> None:
    use_torchrun(args)
    dump, _ = open_dump(args)  # Mistakes are reported once, before any process is started.
    dump.prepare()
    is_main = args.machine_rank == 0 and (not is_torchrun() or os.environ["RANK"] == "0")
    if dump.is_complete:
        if is_main:
            print(f"{args.output} is already complete")
        return
    missing = len(dump.missing_shards())
    if missing < dump.num_shards and is_main:
        print(f"{dump.num_shards - missing} of {dump.num_shards} shards exist already")
    if missing:
        # A process that has finished its part waits for the others.
        run_processes(work, args, timeout=timedelta(days=7))
    if is_main:
        print(f"{args.output}: {dump.merge()} proposals")


def convert(args: argparse.Namespace) -> None:
    register_arguments(args.dataset)
    name = args.dataset_name
    check_dataset("--dataset-name", name)
    json_file = MetadataCatalog.get(name).get("json_file")
    if not json_file:
        raise ConfigError(f"--dataset-name: '{name}' has no JSON file with the order of images")
    with contextlib.redirect_stdout(io.StringIO()):
        images = COCO(PathManager.get_local_path(json_file)).dataset["images"]
    proposals = read_mmdet_proposals(args.from_mmdet, [image["id"] for image in images])
    os.makedirs(os.path.dirname(os.path.abspath(args.output)), exist_ok=True)
    write_proposals(args.output, proposals)
    print(f"{args.output}: {sum(map(len, proposals.boxes))} proposals of {len(images)} images")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with errors_in_one_line("dump_proposals.py", once=True):
        inputs = [args.from_mmdet] if args.from_mmdet else []
        check_output_file("--output", args.output, inputs)
        if args.from_mmdet:
            convert(args)
        else:
            dump_proposals(args)


if __name__ == "__main__":
    main()
