"""Let a run label images that have no label, for the training of another run.

REQUIRED INPUTS
    <results>/{ds}/manifest.parquet of the datasets below pseudo_labels, their working images in the store
    <results>/cohorts/{cohort}/digest.json of the run that learns
    <results>/runs/{other}/{fold}/weights.safetensors of the run that labels
OUTPUTS
    <results>/runs/{run}/unlabelled/manifest.parquet
    <results>/runs/{run}/unlabelled/{height}x{width}/{NNNN.tar,index.parquet}
    <results>/runs/{run}/{fold}/pseudo/{pseudo.parquet,pseudo_seen.parquet,pseudo.json}
"""


rule list_unlabelled:
    """Nobody who stands in val or test; whoever stands in a fold of train keeps it."""
    input:
        digest=run_cohort_digest,
        manifests=pseudo_manifests,
    output:
        "<results>/runs/{run}/unlabelled/manifest.parquet",
    log:
        "<results>/logs/list_unlabelled/{run}.log",
    conda:
        "../../envs/tabular.yaml"
    threads: 4
    resources:
        mem_mb=memory_mb(3000),
        runtime=runtime_minutes(60),
    params:
        cohort=subpath(input.digest, parent=True),
        manifests=lambda wildcards, input: [str(Path(path).parent) for path in input.manifests],
        near_duplicates=run_near_duplicates,
        store=config["store"],
        out=subpath(output[0], parent=True),
        recipe=stage_recipe("pseudo"),
    message:
        "List the unlabelled images for {wildcards.run}"
    shell:
        r"""
        python -m mammoflow list-unlabelled \
            --cohort {params.cohort:q} \
            --manifests {params.manifests:q} \
            --near-duplicates {params.near_duplicates} \
            --store {params.store:q} \
            --threads {threads} \
            --out {params.out:q} \
            2>&1 | tee {log:q}
        """


use rule pack_cohort as pack_unlabelled with:
    input:
        "<results>/runs/{run}/unlabelled/manifest.parquet",
    output:
        "<results>/runs/{run}/unlabelled/{height}x{width}/index.parquet",
    log:
        "<results>/logs/pack/{run}-unlabelled-{height}x{width}.log",
    benchmark:
        "<results>/benchmarks/pack/{run}-unlabelled-{height}x{width}.jsonl"
    message:
        "Pack the unlabelled images for {wildcards.run} at {wildcards.height}x{wildcards.width}"


rule pseudo_label:
    """Once per fold: the model that labels must not have seen whom the fold holds out."""
    input:
        digest=run_cohort_digest,
        unlabelled="<results>/runs/{run}/unlabelled/manifest.parquet",
        pack=teacher_pack,
        weights=teacher_weights,
    output:
        labels="<results>/runs/{run}/{fold}/pseudo/pseudo.parquet",
        seen="<results>/runs/{run}/{fold}/pseudo/pseudo_seen.parquet",
        record="<results>/runs/{run}/{fold}/pseudo/pseudo.json",
    log:
        "<results>/logs/pseudo_label/{run}/{fold}.log",
    benchmark:
        "<results>/benchmarks/pseudo_label/{run}/{fold}.jsonl"
    conda:
        "../../envs/train.yaml"
    threads: 2
    resources:
        mem_mb=memory_mb(4000),
        runtime=runtime_minutes(240),
        gpu_jobs=gpu_jobs,
    params:
        cohort=subpath(input.digest, parent=True),
        unlabelled=subpath(input.unlabelled, parent=True),
        pack=subpath(input.pack, parent=True),
        folds=lambda wildcards, input: [str(Path(path).parent) for path in input.weights],
        settings=run_settings,
        out=subpath(output.labels, parent=True),
        recipe=stage_recipe("pseudo"),
    message:
        "Label images for {wildcards.run}, fold {wildcards.fold}"
    shell:
        r"""
        python -m mammoflow pseudo-label {wildcards.run} \
            --fold {wildcards.fold} \
            --cohort {params.cohort:q} \
            --unlabelled {params.unlabelled:q} \
            --pack {params.pack:q} \
            --folds {params.folds:q} \
            --settings {params.settings:q} \
            --out {params.out:q} \
            2>&1 | tee {log:q}
        """
