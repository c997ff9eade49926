"""Lesion crops, cut from the original pixels. Only images with a marked lesion are decoded again.

REQUIRED INPUTS
    <results>/{ds}/shards/{shard}.csv and {shard}.findings.csv
OUTPUTS
    <results>/{ds}/crop/{shard}.parquet       the LEDGER, one row per finding
    <store>/{ds}/{recipe}/...                 pixels; not declared
"""


rule crop_shard:
    """A change of the margin never touches the converted images."""
    input:
        images="<results>/{ds}/shards/{shard}.csv",
        findings="<results>/{ds}/shards/{shard}.findings.csv",
    output:
        "<results>/{ds}/crop/{shard}.parquet",
    log:
        "<results>/logs/crop/{ds}/{shard}.log",
    benchmark:
        "<results>/benchmarks/crop/{ds}/{shard}.jsonl"
    conda:
        "../../envs/convert.yaml"
    threads: 2
    resources:
        # Measured (docs/benchmarks.md): 200 + 270 for each thread on the largest mammograms, J2K.
        mem_mb=memory_mb(400, 300),
        # A resource, not a parameter: what does not change a pixel must not run a job again.
        image_seconds=config["image_seconds"],
        runtime=runtime_minutes(60),
    params:
        root=dataset_root,
        store=config["store"],
        settings=as_json(config["crop"]),
        recipe=crop_recipe,
    message:
        "Cut the lesions of {wildcards.ds} {wildcards.shard}"
    shell:
        r"""
        python -m mammoflow crop {wildcards.ds} \
            --shard {input.images:q} \
            --findings {input.findings:q} \
            --root {params.root:q} \
            --store {params.store:q} \
            --ledger {output:q} \
            --settings {params.settings:q} \
            --threads {threads} \
            --image-seconds {resources.image_seconds} \
            2>&1 | tee {log:q}
        """
