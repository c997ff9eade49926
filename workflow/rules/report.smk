"""One self-contained page that tells what entered, how it was split, and what came out; and a model card per run.

REQUIRED INPUTS
    summaries of the datasets, digests of the cohorts, metrics of the runs
OUTPUTS
    <results>/report/index.html
    <results>/runs/{run}/model_card.md
"""


rule write_report:
    input:
        summaries=dataset_files("summary.json"),
        cohorts=cohort_files("digest.json"),
        runs=run_files("evaluate/metrics.json"),
    output:
        report(
            "<results>/report/index.html",
            caption="../report/report.rst",
            category="Report",
            labels={"page": "everything on one page"},
        ),
    log:
        "<results>/logs/report.log",
    benchmark:
        "<results>/benchmarks/report.jsonl"
    conda:
        "../../envs/tabular.yaml"
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(30),
    params:
        datasets=dataset_files(""),
        cohorts=cohort_files(""),
        runs=run_files(""),
        store=config["store"],
        config=f"{config['results']}/config.yaml",
        recipe=settings.recipe("report", config),
    message:
        "Write the report"
    shell:
        r"""
        python -m mammoflow report \
            --datasets {params.datasets:q} \
            --cohorts {params.cohorts:q} \
            --runs {params.runs:q} \
            --store {params.store:q} \
            --config {params.config:q} \
            --out {output:q} \
            2>&1 | tee {log:q}
        """


rule write_card:
    """Everything else that it reads was there before the metrics."""
    input:
        metrics="<results>/runs/{run}/evaluate/metrics.json",
    output:
        "<results>/runs/{run}/model_card.md",
    log:
        "<results>/logs/model_card/{run}.log",
    conda:
        "../../envs/tabular.yaml"
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(30),
    params:
        run=subpath(output[0], parent=True),
        recipe=settings.recipe("model_card", config["convert"]),
    message:
        "Write the model card of {wildcards.run}"
    shell:
        r"""
        python -m mammoflow model-card {params.run:q} \
            --out {output:q} \
            2>&1 | tee {log:q}
        """
