"""Fuse image scores with tabular features, beside the metadata-only floor; then metrics with intervals.

REQUIRED INPUTS
    <results>/runs/{run}/predictions.parquet
OUTPUTS
    <results>/runs/{run}/fuse/{fused.parquet,fuse.json}
    <results>/runs/{run}/evaluate/{metrics.json,metrics.csv,curves.json}
"""


rule fuse_scores:
    """LightGBM over out-of-fold scores: it never sees a score of a model that was fitted on the same patient."""
    input:
        predictions="<results>/runs/{run}/predictions.parquet",
    output:
        fused="<results>/runs/{run}/fuse/fused.parquet",
        record="<results>/runs/{run}/fuse/fuse.json",
    log:
        "<results>/logs/fuse/{run}.log",
    benchmark:
        "<results>/benchmarks/fuse/{run}.jsonl"
    conda:
        "../../envs/tabular.yaml"
    threads: 2
    resources:
        mem_mb=memory_mb(3000),
        runtime=runtime_minutes(60),
    params:
        cohort=run_cohort_dir,
        settings=run_settings_all,
        seed=run_seed,
        out=subpath(output.fused, parent=True),
        recipe=stage_recipe("fuse"),
    message:
        "Fuse the scores of {wildcards.run}"
    shell:
        r"""
        python -m mammoflow fuse {wildcards.run} \
            --cohort {params.cohort:q} \
            --predictions {input.predictions:q} \
            --settings {params.settings:q} \
            --seed {params.seed} \
            --threads {threads} \
            --out {params.out:q} \
            2>&1 | tee {log:q}
        """


rule evaluate_run:
    """The threshold comes from validation; test is looked at once."""
    input:
        predictions="<results>/runs/{run}/predictions.parquet",
        candidates="<results>/runs/{run}/lesions/candidates.parquet",
        targets="<results>/runs/{run}/lesions/targets.parquet",
        overlaps="<results>/runs/{run}/lesions/overlaps.parquet",
        fused="<results>/runs/{run}/fuse/fused.parquet",
    output:
        metrics="<results>/runs/{run}/evaluate/metrics.json",
        table=report(
            "<results>/runs/{run}/evaluate/metrics.csv",
            caption="../report/metrics.rst",
            category="Metrics",
            labels={"run": "{run}"},
        ),
        curves="<results>/runs/{run}/evaluate/curves.json",
    log:
        "<results>/logs/evaluate/{run}.log",
    benchmark:
        "<results>/benchmarks/evaluate/{run}.jsonl"
    conda:
        "../../envs/tabular.yaml"
    resources:
        mem_mb=memory_mb(3000),
        runtime=runtime_minutes(60),
    params:
        cohort=run_cohort_dir,
        lesions=subpath(input.candidates, parent=True),
        settings=run_settings_all,
        seed=run_seed,
        out=subpath(output.metrics, parent=True),
        recipe=stage_recipe("evaluate"),
    message:
        "Evaluate {wildcards.run}"
    shell:
        r"""
        python -m mammoflow evaluate {wildcards.run} \
            --cohort {params.cohort:q} \
            --predictions {input.predictions:q} \
            --fused {input.fused:q} \
            --lesions {params.lesions:q} \
            --settings {params.settings:q} \
            --seed {params.seed} \
            --out {params.out:q} \
            2>&1 | tee {log:q}
        """
