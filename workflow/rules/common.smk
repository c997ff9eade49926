"""Helpers of the rules: configuration, names of files, settings of stages. No rules here."""

import json
import shlex

from snakemake.exceptions import WorkflowError

from mammoflow import runtime, settings
from mammoflow.datasets import archive
from mammoflow.errors import UserError
from mammoflow.files import write_yaml

try:
    config.update(settings.check_references(settings.resolve(config)))
    runtime.longest()  # a wrong value is said now, not with the first job
except UserError as error:
    raise WorkflowError(str(error))

# Setting a prefix replaces Snakemake's own, bash's strict mode, without which a failure before `| tee` would pass unseen.
# `--sdm conda` unsets PYTHONPATH in the job, so the package's directory is exported inside the job's own shell. Without
# conda the job must use the Python that runs Snakemake, also when its environment was not activated.
JOB_PREFIX = f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(PACKAGE_DIR))}; "
if not workflow.deployment_settings.deployment_method:
    JOB_PREFIX += f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
shell.prefix(JOB_PREFIX)


def save_config():
    """Write the configuration with all defaults beside the results; `status` and the report read it."""
    write_yaml(Path(config["results"]) / "config.yaml", config)


def as_json(values):
    """Settings on a command line: compact, sorted, so that equal settings are equal parameters."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


# --- names of files ---------------------------------------------------------------------------------------------------


def dataset_directory(ds):
    return str(Path(config["data"]) / (config["datasets"][ds]["root"] or ds))


def dataset_root(wildcards):
    """Directory of the raw archive. A parameter, never an input: its mtime changes for free on clusters."""
    return dataset_directory(wildcards.ds)


def collected_record(wildcards):
    """What an inventory waits for: the record of the collect where one is asked for, else nothing."""
    asked = config["datasets"][wildcards.ds]["collect"] is not None
    return [f"{config['results']}/{wildcards.ds}/collected.json"] if asked else []


def shard_names(ds):
    """0000-of-0008 ...: the count is configuration, so that a dry run shows the whole plan."""
    count = config["datasets"][ds]["shards"]
    return [f"{index:04d}-of-{count:04d}" for index in range(count)]


# For every job that reads a shard Snakemake looks through all outputs of the job that wrote it. One dealing job for all
# shards would make the plan's time grow with their square.
SHARDS_PER_DEAL = 64


def deal_blocks():
    """(dataset, slice of its shard names) of each dealing job."""
    return [
        (ds, slice(start, min(start + SHARDS_PER_DEAL, section["shards"])))
        for ds, section in config["datasets"].items()
        for start in range(0, section["shards"], SHARDS_PER_DEAL)
    ]


def dataset_files(name, datasets=None):
    return [f"{config['results']}/{ds}/{name}" for ds in datasets or config["datasets"]]


def ledgers(stage, datasets):
    """Ledgers of a stage over all shards. Archives without marked lesions have nothing to crop."""
    return [
        f"{config['results']}/{ds}/{stage}/{shard}.parquet"
        for ds in datasets
        if stage != "crop" or archive(ds).localised
        for shard in shard_names(ds)
    ]


def convert_ledgers(wildcards):
    return ledgers("convert", [wildcards.ds])


def crop_ledgers(wildcards):
    return ledgers("crop", [wildcards.ds])


def cohort_files(name):
    return [f"{config['results']}/cohorts/{cohort}/{name}" for cohort in config["cohorts"]]


def cohort_manifests(wildcards):
    return dataset_files("manifest.parquet", config["cohorts"][wildcards.cohort]["datasets"])


def run_cohort_digest(wildcards):
    """The only way from a cohort to a training. Being a checkpoint, an unchanged split does not train again."""
    return checkpoints.freeze_cohort.get(cohort=config["runs"][wildcards.run]["cohort"]).output.digest


def run_cohort_dir(wildcards):
    return f"{config['results']}/cohorts/{config['runs'][wildcards.run]['cohort']}"


def run_pack_dir(wildcards):
    run = config["runs"][wildcards.run]
    return f"{config['results']}/packs/{run['cohort']}-{run['image_size'][0]}x{run['image_size'][1]}"


def run_pack_index(wildcards):
    return f"{run_pack_dir(wildcards)}/index.parquet"


def run_folds(run):
    return range(config["cohorts"][config["runs"][run]["cohort"]]["folds"])


def run_weights_of(run):
    return [f"{config['results']}/runs/{run}/{fold}/weights.safetensors" for fold in run_folds(run)]


def run_weights(wildcards):
    return run_weights_of(wildcards.run)


def source_folds(wildcards, source):
    """Weights of the folds of run `source` that a fold may use: on the same cohort its own, from another all."""
    weights = run_weights_of(source)
    same = config["runs"][source]["cohort"] == config["runs"][wildcards.run]["cohort"]
    return [weights[int(wildcards.fold)]] if same else weights


def start_weights(wildcards):
    """The run that this one starts from has to be trained first. With it a chain of runs is one target."""
    source = config["runs"][wildcards.run]["from_run"]
    return source_folds(wildcards, source) if source else []


def teacher_weights(wildcards):
    return source_folds(wildcards, config["runs"][wildcards.run]["pseudo_labels"]["run"])


def pseudo_manifests(wildcards):
    return dataset_files("manifest.parquet", config["runs"][wildcards.run]["pseudo_labels"]["datasets"])


def unlabelled_pack(wildcards, run):
    """Index of the unlabelled images for a run, packed at the size that `run` wants."""
    height, width = config["runs"][run]["image_size"]
    return f"{config['results']}/runs/{wildcards.run}/unlabelled/{height}x{width}/index.parquet"


def teacher_pack(wildcards):
    return unlabelled_pack(wildcards, config["runs"][wildcards.run]["pseudo_labels"]["run"])


def pseudo_labels(wildcards):
    if not config["runs"][wildcards.run]["pseudo_labels"]:
        return []
    return f"{config['results']}/runs/{wildcards.run}/{wildcards.fold}/pseudo/pseudo.parquet"


def pseudo_pack(wildcards):
    return unlabelled_pack(wildcards, wildcards.run) if config["runs"][wildcards.run]["pseudo_labels"] else []


def further_arguments(wildcards, input):
    """Options of `train` for runs that build on others; already quoted."""
    words = []
    if input.start:
        words += ["--from-run", *[str(Path(path).parent) for path in input.start]]
    if input.pseudo:
        words += ["--pseudo", str(Path(input.pseudo).parent), "--pseudo-pack", str(Path(input.pseudo_pack).parent)]
    return shlex.join(words)


def all_weights(wildcards):
    return [path for run in config["runs"] for path in run_weights_of(run)]


def run_files(name):
    return [f"{config['results']}/runs/{run}/{name}" for run in config["runs"]]


def report_page():
    return f"{config['results']}/report/index.html"


# --- settings of stages: parameters, so that a change is seen and only what depends on it runs again --------------------


def inventory_settings(wildcards):
    return as_json({key: config["datasets"][wildcards.ds][key] for key in ("exclude", "for_processing")})


def inventory_recipe(wildcards):
    return settings.recipe("inventory", {"archive": wildcards.ds})


def convert_recipe(wildcards):
    return settings.convert_recipe(wildcards.ds, config["convert"])


def crop_recipe(wildcards):
    return settings.crop_recipe(wildcards.ds, config["crop"])


def cohort_seed(wildcards):
    seed = config["cohorts"][wildcards.cohort]["seed"]
    return config["seed"] if seed is None else seed


def cohort_settings(wildcards):
    return as_json(config["cohorts"][wildcards.cohort])


def run_near_duplicates(wildcards):
    return config["cohorts"][config["runs"][wildcards.run]["cohort"]]["near_duplicates"]


def run_seed(wildcards):
    seed = config["runs"][wildcards.run]["seed"]
    return config["seed"] if seed is None else seed


def run_settings(wildcards):
    return as_json(settings.training_settings(config["runs"][wildcards.run]))


def run_settings_all(wildcards):
    return as_json(config["runs"][wildcards.run])


def gpu_jobs(wildcards):
    """1 where the job would take this machine's GPU, for a cap such as that of profiles/local. Clusters count GPUs."""
    return int(config["runs"][wildcards.run]["accelerator"] != "cpu" and runtime.sees_gpu())


def run_processes(wildcards):
    return config["runs"][wildcards.run]["processes"]


def train_launcher(wildcards, resources):
    """Several nodes: `srun` (named by the profile's `mpi` resource) starts one launcher on each. Else nothing."""
    if not resources.get("mpi"):
        return ""
    nodes = resources.nodes
    return f"{resources.mpi} --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --kill-on-bad-exit=1"


def stage_recipe(stage):
    return settings.recipe(stage, {})


# Memory grows with each attempt: a shard that was killed for memory is tried again with twice as much.
def memory_mb(base_mb, per_thread_mb=0):
    def of_attempt(wildcards, threads, attempt):
        return (base_mb + per_thread_mb * threads) * 2 ** (attempt - 1)

    return of_attempt


def runtime_minutes(minutes):
    def of_attempt(wildcards, attempt):
        return runtime.minutes_of(minutes, attempt)

    return of_attempt
