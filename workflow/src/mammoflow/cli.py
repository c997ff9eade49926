"""Command line: ``python -m mammoflow COMMAND ...``.

Every rule of the workflow calls one of these commands, so each step can also be run by hand. A command lives in the
module named beside it, which offers ``configure(parser)`` and ``run(args) -> int | None``. Only the module of the
chosen command is imported: ``convert`` must start without loading torch.
"""

import argparse
import importlib
import os
import sys

from mammoflow import __version__
from mammoflow.errors import UserError

COMMANDS = {
    "datasets": ("mammoflow.datasets.listing", "list the archives: licence, access, what to put where"),
    "pseudonymise": ("mammoflow.pseudonymise.command", "write a DICOM tree again with pseudonyms, and audit it"),
    "detect": ("mammoflow.datasets.detection", "find known archives below a directory"),
    "collect": ("mammoflow.collect.command", "fetch an archive, or say how to get it; resumes, verifies"),
    "registry": ("mammoflow.registry", "write checksums of a dataset directory (or a DVC pointer), verify them later"),
    "phantom": ("mammoflow.phantom", "write a synthetic archive in the exact layout of a real one"),
    "inventory": ("mammoflow.inventory", "list images, findings and exams of an archive (no pixels read)"),
    "shard": ("mammoflow.shard", "deal the patients of an inventory into shard files"),
    "convert": ("mammoflow.convert", "convert the images of one shard to PNG, with a ledger"),
    "convert-file": ("mammoflow.convert_file", "convert one file and print its ledger row as JSON"),
    "inspect": ("mammoflow.inspect", "show what the converter sees in one file"),
    "self-test": ("mammoflow.self_test", "check every installed decoder, and show which one is used"),
    "crop": ("mammoflow.crop", "cut the lesions of one shard from the original pixels, with a ledger"),
    "manifest": ("mammoflow.manifest", "join inventory and ledgers of a dataset, apply the label policy, gate"),
    "cohort": ("mammoflow.cohort", "pool manifests, split by patient, audit for leaks"),
    "stratify": ("mammoflow.stratify_table", "split any table by group with balanced attributes"),
    "audit": ("mammoflow.audit_table", "report the patient leak of any split table"),
    "export": ("mammoflow.exports", "write a cohort for other tools: coco, nnunet, monai, webdataset ..."),
    "double-reading": ("mammoflow.double_reading", "compare two readers, merge the arbitration, write VinDr's tables"),
    "pack": ("mammoflow.pack", "pack a cohort's images for training"),
    "list-unlabelled": ("mammoflow.unlabelled", "list the images without a label that a run may label for another"),
    "pseudo-label": (
        "mammoflow.train.pseudo",
        "label images with a trained run where it is confident, for training only",
    ),
    "train": ("mammoflow.train.command", "train one fold of a run (call through torchrun for several processes)"),
    "predict": ("mammoflow.train.predict", "score images, breasts and patients with the trained folds of a run"),
    "fuse": ("mammoflow.fuse", "fuse image scores with tabular features; metadata-only floor"),
    "evaluate": ("mammoflow.evaluate", "metrics with patient-clustered intervals"),
    "export-model": (
        "mammoflow.train.export_model",
        "write a trained run as safetensors and ONNX, checked against torch",
    ),
    "model-card": ("mammoflow.model_card", "write a run's model card: data, licences, results, limits, how to load"),
    "compare": ("mammoflow.compare", "compare runs on the test units they share, as a table and a page"),
    "report": ("mammoflow.report", "write the self-contained HTML report"),
    "status": ("mammoflow.status", "what is done, failed, quarantined and running per dataset"),
    "plan": ("mammoflow.plan", "what a configuration will cost: images, GB, core-hours, GPU-hours"),
    "check-cluster": ("mammoflow.preflight", "will this configuration run on this SLURM cluster? Says so in a second"),
    "failed-shards": ("mammoflow.failed_shards", "ledgers that hold failed images, for snakemake -R"),
    "ui": ("mammoflow.ui.command", "open the page: collect, check, train and read results in a browser"),
    "headline": ("mammoflow.headline", "print the main result of each run"),
    "config-reference": ("mammoflow.config_reference", "write the table of keys in config/README.md"),
}


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Parser with every command named, and the options of ``command`` alone (its module is imported here)."""
    parser = argparse.ArgumentParser(prog="mammoflow", description="Mammograms: raw archives to evaluated models.")
    parser.add_argument("--version", action="version", version=f"mammoflow {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary)
        if name == command:
            module = importlib.import_module(module_name)
            module.configure(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit status; 2 for input a user can mend."""
    argv = sys.argv[1:] if argv is None else argv
    command = next((word for word in argv if word in COMMANDS), None)
    args = build_parser(command).parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except UserError as error:
        print(f"mammoflow {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (``| head``) went away: nothing left to say, and Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
