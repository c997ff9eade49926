"""Pool datasets, split by patient, prove that nothing leaks, and pack the images for training.

REQUIRED INPUTS
    <results>/{ds}/manifest.parquet of the cohort's datasets, and their working images in the store
OUTPUTS
    <results>/cohorts/{cohort}/{manifest.parquet,manifest.csv,findings.parquet,audit.json,balance.csv,balance.html,digest.json}
    <results>/packs/{cohort}-{height}x{width}/{NNNN.tar,index.parquet}
"""


checkpoint freeze_cohort:
    """A checkpoint for its early cut-off: when the split comes out unchanged, nothing behind it runs again."""
    input:
        cohort_manifests,
    output:
        manifest="<results>/cohorts/{cohort}/manifest.parquet",
        csv="<results>/cohorts/{cohort}/manifest.csv",
        findings="<results>/cohorts/{cohort}/findings.parquet",
        audit="<results>/cohorts/{cohort}/audit.json",
        balance="<results>/cohorts/{cohort}/balance.csv",
        page=report(
            "<results>/cohorts/{cohort}/balance.html",
            caption="../report/balance.rst",
            category="Splits",
            labels={"cohort": "{cohort}"},
        ),
        digest="<results>/cohorts/{cohort}/digest.json",
    log:
        "<results>/logs/cohort/{cohort}.log",
    benchmark:
        "<results>/benchmarks/cohort/{cohort}.jsonl"
    conda:
        "../../envs/tabular.yaml"
    threads: 4
    resources:
        mem_mb=memory_mb(3000),
        runtime=runtime_minutes(60),
    params:
        manifests=lambda wildcards, input: [str(Path(path).parent) for path in input],
        settings=cohort_settings,
        seed=cohort_seed,
        store=config["store"],
        out=subpath(output.manifest, parent=True),
        recipe=stage_recipe("cohort"),
    message:
        "Split and audit the cohort {wildcards.cohort}"
    shell:
        r"""
        python -m mammoflow cohort {wildcards.cohort} \
            --manifests {params.manifests:q} \
            --settings {params.settings:q} \
            --seed {params.seed} \
            --store {params.store:q} \
            --threads {threads} \
            --out {params.out:q} \
            2>&1 | tee {log:q}
        """


rule pack_cohort:
    """A few large files instead of many small ones: what training reads."""
    input:
        "<results>/cohorts/{cohort}/digest.json",
    output:
        "<results>/packs/{cohort}-{height}x{width}/index.parquet",
    log:
        "<results>/logs/pack/{cohort}-{height}x{width}.log",
    benchmark:
        "<results>/benchmarks/pack/{cohort}-{height}x{width}.jsonl"
    wildcard_constraints:
        height=r"\d+",
        width=r"\d+",
    conda:
        "../../envs/convert.yaml"
    threads: 2
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(120),
    params:
        cohort=subpath(input[0], parent=True),
        store=config["store"],
        out=subpath(output[0], parent=True),
        recipe=stage_recipe("pack"),
    message:
        "Pack the images of {wildcards.cohort} at {wildcards.height}x{wildcards.width}"
    shell:
        r"""
        python -m mammoflow pack \
            --cohort {params.cohort:q} \
            --store {params.store:q} \
            --out {params.out:q} \
            --image-size {wildcards.height} {wildcards.width} \
            --threads {threads} \
            2>&1 | tee {log:q}
        """
