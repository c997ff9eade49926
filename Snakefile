"""mammoflow: raw mammography archives -> converted images -> audited splits -> trained and evaluated models.

The only entry. Targets: `all` (default), one per dataset (`snakemake mias`) and one per stage
(`snakemake inventory | convert | crop | manifests | cohorts | train | evaluate | report | export`).
Configuration: config/config.yaml, or the file given with --configfile. See config/README.md.
"""

import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.19")

# The logic lives in an importable package; Snakemake only wires it together.
PACKAGE_DIR = Path(workflow.basedir) / "workflow" / "src"
sys.path.insert(0, str(PACKAGE_DIR))

# A file given with --configfile stands alone: it is not laid over config.yaml, whose datasets it would inherit.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


pathvars:
    results=config["results"],
    store=config["store"],


report: "workflow/report/workflow.rst"


# With `--sdm apptainer` every job runs in this image, which a person builds: containers/mammoflow.def.
container: str(Path(workflow.basedir) / "containers" / "mammoflow.sif")


include: "workflow/rules/collect.smk"
include: "workflow/rules/inventory.smk"
include: "workflow/rules/convert.smk"
include: "workflow/rules/crop.smk"
include: "workflow/rules/manifest.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/pseudo.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/export.smk"


wildcard_constraints:
    ds="|".join(config["datasets"]) or "(?!)",
    shard=r"\d{4}-of-\d{4}",
    cohort="|".join(config["cohorts"]) or "(?!)",
    run="|".join(config["runs"]) or "(?!)",
    fold=r"\d+",


onstart:
    save_config()


localrules:
    all,
    inventory,
    convert,
    crop,
    manifests,
    cohorts,
    train,
    evaluate,
    report,
    export,


rule all:
    default_target: True
    input:
        report_page(),
        run_files("model_card.md"),
        manifests=dataset_files("manifest.parquet"),
    message:
        "Everything that the configuration names is done."


rule inventory:
    input:
        dataset_files("inventory/images.parquet"),
    message:
        "All inventories are written."


rule convert:
    input:
        ledgers("convert", config["datasets"]),
    message:
        "All images are converted."


rule crop:
    input:
        ledgers("crop", config["datasets"]),
    message:
        "All lesions are cut."


rule manifests:
    input:
        dataset_files("manifest.parquet"),
    message:
        "All manifests are written."


rule cohorts:
    input:
        cohort_files("digest.json"),
    message:
        "All cohorts are split and audited."


rule train:
    input:
        all_weights,
    message:
        "All folds of all runs are trained."


rule evaluate:
    input:
        run_files("evaluate/metrics.json"),
    message:
        "All runs are evaluated."


rule report:
    input:
        report_page(),
        run_files("model_card.md"),
    message:
        "The report is written."


rule export:
    input:
        run_files("export/export.json"),
    message:
        "All models are exported."


for dataset_name in config["datasets"]:

    rule:
        name:
            dataset_name
        input:
            dataset_files("manifest.parquet", [dataset_name]),
        localrule: True
        message:
            "The manifest of one dataset is written."
