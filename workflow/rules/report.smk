"""One self-contained page that tells what entered, how it was split, and what came out.

REQUIRED INPUTS
    summaries of the datasets, digests of the cohorts, metrics of the runs
OUTPUTS
    <results>/report/index.html
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
