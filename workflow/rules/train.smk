"""Train one model per fold, then score every image with the models that never saw its patient.

REQUIRED INPUTS
    <results>/cohorts/{cohort}/digest.json    the only tie to the cohort: an unchanged split never trains again
    <results>/packs/...index.parquet
    <results>/runs/{other}/{fold}/weights.safetensors    where the run starts from another, or another labels for it
OUTPUTS
    <results>/runs/{run}/{fold}/{weights.safetensors,metrics.csv,train.json,seen.parquet}
    <results>/runs/{run}/{fold}/checkpoints/  not declared: a retry goes on from the last epoch
    <results>/runs/{run}/predictions.parquet
    <results>/runs/{run}/lesions/{candidates,targets,overlaps}.parquet    what the maps find of the marked lesions
    <results>/runs/{run}/{heatmaps,masks}/    not declared: pictures of test images
"""


rule train_fold:
    """`torchrun` starts one process per GPU, or per CPU process; one process needs no launcher."""
    input:
        digest=run_cohort_digest,
        pack=run_pack_index,
        start=start_weights,
        pseudo=pseudo_labels,
        pseudo_pack=pseudo_pack,
    output:
        weights="<results>/runs/{run}/{fold}/weights.safetensors",
        metrics=report(
            "<results>/runs/{run}/{fold}/metrics.csv",
            caption="../report/training.rst",
            category="Training",
            labels={"run": "{run}", "fold": "{fold}"},
        ),
        record="<results>/runs/{run}/{fold}/train.json",
        seen="<results>/runs/{run}/{fold}/seen.parquet",
    log:
        "<results>/logs/train/{run}/{fold}.log",
    benchmark:
        "<results>/benchmarks/train/{run}/{fold}.jsonl"
    conda:
        "../../envs/train.yaml"
    threads: run_processes
    resources:
        mem_mb=memory_mb(6000),
        runtime=runtime_minutes(1440),
        gpu_jobs=gpu_jobs,
    params:
        launcher=train_launcher,
        processes=run_processes,
        cohort=subpath(input.digest, parent=True),
        pack=subpath(input.pack, parent=True),
        settings=run_settings,
        seed=run_seed,
        further=further_arguments,
        out=subpath(output.weights, parent=True),
        recipe=stage_recipe("train"),
    message:
        "Train {wildcards.run}, fold {wildcards.fold}"
    shell:
        r"""
        {params.launcher} python -m mammoflow.train.launch --processes {params.processes} -- \
            train {wildcards.run} \
            --fold {wildcards.fold} \
            --cohort {params.cohort:q} \
            --pack {params.pack:q} \
            --settings {params.settings:q} \
            --seed {params.seed} \
            --out {params.out:q} \
            {params.further} \
            2>&1 | tee {log:q}
        """


rule predict_run:
    """Training rows get the score of their own fold's model, validation and test rows the mean over the folds."""
    input:
        digest=run_cohort_digest,
        pack=run_pack_index,
        weights=run_weights,
    output:
        predictions="<results>/runs/{run}/predictions.parquet",
        candidates="<results>/runs/{run}/lesions/candidates.parquet",
        targets="<results>/runs/{run}/lesions/targets.parquet",
        overlaps="<results>/runs/{run}/lesions/overlaps.parquet",
    log:
        "<results>/logs/predict/{run}.log",
    benchmark:
        "<results>/benchmarks/predict/{run}.jsonl"
    conda:
        "../../envs/train.yaml"
    threads: 2
    resources:
        mem_mb=memory_mb(4000),
        runtime=runtime_minutes(240),
        gpu_jobs=gpu_jobs,
    params:
        cohort=subpath(input.digest, parent=True),
        pack=subpath(input.pack, parent=True),
        folds=lambda wildcards, input: [str(Path(path).parent) for path in input.weights],
        settings=run_settings,
        heatmaps=lambda wildcards, output: str(Path(output.predictions).with_name("heatmaps")),
        masks=lambda wildcards, output: str(Path(output.predictions).with_name("masks")),
        lesions=subpath(output.candidates, parent=True),
        recipe=stage_recipe("predict"),
    message:
        "Score the images of {wildcards.run}"
    shell:
        r"""
        python -m mammoflow predict {wildcards.run} \
            --cohort {params.cohort:q} \
            --pack {params.pack:q} \
            --folds {params.folds:q} \
            --settings {params.settings:q} \
            --heatmaps {params.heatmaps:q} \
            --masks {params.masks:q} \
            --lesions {params.lesions:q} \
            --out {output.predictions:q} \
            2>&1 | tee {log:q}
        """
