#!/usr/bin/env python
"""Write a model's proposals for a data set in detectron2's format, for Fast R-CNN.

    tools/dump_proposals.py --config-file configs/ga_rpn_R_50.yaml --dataset-name coco_2017_train \\
        --output proposals/train.pkl --num-gpus 8 MODEL.WEIGHTS ga://ga_rpn_R_50

The images are divided into shards, and these among the processes, which several machines may have
if they share the folder of --output (docs/distributed.md). A second run of the same command goes on
after the last shard that was finished. Boxes are in pixels of the original images; there
are MODEL.RPN.POST_NMS_TOPK_TEST of them in an image (1000; Fast R-CNN uses 300).

    tools/dump_proposals.py --from-mmdet proposals.pkl --dataset-name coco_2017_train \\
        --output proposals/train.pkl

converts a proposal pickle of MMDetection instead, without executing anything in it.
"""

import argparse
import contextlib
import io
import os
import sys
from datetime import timedelta

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from pycocotools.coco import COCO

from ga_detectron2.checkpoint import CheckpointError, GACheckpointer
from ga_detectron2.data import register_datasets
from ga_detectron2.data.proposal_files import (
    ProposalFileError,
    read_mmdet_proposals,
    write_proposals,
)
from ga_detectron2.engine import (
    ConfigError,
    GATrainer,
    check_run,
    load_config,
    use_available_device,
)
from ga_detectron2.engine.processes import (
    exit_once,
    is_torchrun,
    run_processes,
    share_threads,
    use_torchrun,
)
from ga_detectron2.engine.proposal_dump import ProposalDump


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", help="of the model")
    parser.add_argument("--from-mmdet", metavar="FILE", help="convert this file instead")
    parser.add_argument("--output", required=True, metavar="FILE.pkl", help="the file to write")
    parser.add_argument(
        "--dataset-name",
        metavar="NAME",
        help="the data set (default: the one of DATASETS.TEST)",
    )
    parser.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="NAME=ANNOTATIONS.json:IMAGE_FOLDER",
        help="register a data set in COCO's format under NAME; may be given several times",
    )
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes a machine")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://HOST:PORT of the first machine, if there are several",
    )
    parser.add_argument(
        "--shard-size", type=int, default=500, metavar="N", help="images in a shard (default: 500)"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="changes of the configuration")
    args = parser.parse_intermixed_args(argv)
    if bool(args.config_file) == bool(args.from_mmdet):
        parser.error("give either --config-file or --from-mmdet")
    if args.from_mmdet and not args.dataset_name:
        parser.error("--from-mmdet needs --dataset-name, for the order of the images")
    if args.shard_size < 1 or args.num_gpus < 1:
        parser.error("--shard-size and --num-gpus must be at least 1")
    return args


def setup(args: argparse.Namespace) -> tuple[CfgNode, str, str | None]:
    """The checked configuration, the name of the data set, and a note to log."""
    cfg = load_config(args.config_file, args.opts, args.dataset)
    note = use_available_device(cfg)
    if args.dataset_name:
        cfg.DATASETS.TEST = (args.dataset_name,)
    check_run(cfg, args.num_gpus * args.num_machines, eval_only=True)
    if len(cfg.DATASETS.TEST) > 1:
        names = ", ".join(cfg.DATASETS.TEST)
        raise ConfigError(f"DATASETS.TEST has several data sets: --dataset-name one of {names}")
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("there are no proposals without weights: set MODEL.WEIGHTS")
    return cfg, cfg.DATASETS.TEST[0], note


def open_dump(args: argparse.Namespace) -> tuple[ProposalDump, CfgNode, str | None]:
    cfg, name, note = setup(args)
    records = DatasetCatalog.get(name)
    return ProposalDump(args.output, cfg, records, args.shard_size), cfg, note


def work(args: argparse.Namespace) -> None:
    """What every process does."""
    dump, cfg, note = open_dump(args)
    setup_logger(distributed_rank=comm.get_rank())
    # Of the shards, every process tells.
    logger = setup_logger(name="ga_detectron2")
    if note and comm.is_main_process():
        logger.warning(note)
    if cfg.MODEL.DEVICE == "cpu":
        share_threads()
    try:
        model = GATrainer.build_model(cfg)
        GACheckpointer(model).load(cfg.MODEL.WEIGHTS)
        dump.run(model, comm.get_rank(), comm.get_world_size())
    except (ConfigError, CheckpointError, OSError) as error:
        sys.exit(f"dump_proposals.py: error: {error}")
    comm.synchronize()


def dump_proposals(args: argparse.Namespace) -> None:
    use_torchrun(args)
    dump, _, _ = open_dump(args)  # Before any process is started: a mistake is reported once.
    dump.prepare()
    is_main = args.machine_rank == 0 and (not is_torchrun() or os.environ["RANK"] == "0")
    if dump.is_complete:
        if is_main:
            print(f"{args.output} is complete already")
        return
    missing = len(dump.missing_shards())
    if missing < dump.num_shards and is_main:
        print(f"{dump.num_shards - missing} of {dump.num_shards} shards are there already")
    if missing:
        # Who has done his part waits for the others.
        run_processes(work, args, timeout=timedelta(days=7))
    if is_main:
        print(f"{args.output}: {dump.merge()} proposals")


def convert(args: argparse.Namespace) -> None:
    try:
        register_datasets(args.dataset)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--dataset: {error}") from error
    name = args.dataset_name
    if name not in DatasetCatalog:
        raise ConfigError(f"--dataset-name: there is no data set '{name}'")
    json_file = MetadataCatalog.get(name).get("json_file")
    if not json_file:
        raise ConfigError(f"--dataset-name: '{name}' has no JSON that tells the order of images")
    with contextlib.redirect_stdout(io.StringIO()):
        images = COCO(PathManager.get_local_path(json_file)).dataset["images"]
    proposals = read_mmdet_proposals(args.from_mmdet, [image["id"] for image in images])
    os.makedirs(os.path.dirname(os.path.abspath(args.output)), exist_ok=True)
    write_proposals(args.output, proposals)
    print(f"{args.output}: {sum(map(len, proposals.boxes))} proposals of {len(images)} images")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        if args.from_mmdet:
            convert(args)
        else:
            dump_proposals(args)
    except (ConfigError, CheckpointError, ProposalFileError, OSError) as error:
        exit_once(f"dump_proposals.py: error: {error}")


if __name__ == "__main__":
    main()
