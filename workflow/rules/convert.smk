"""From the stored pixels to the working image: decode, grey scale, breast crop, orientation, size.

REQUIRED INPUTS
    <results>/{ds}/shards/{shard}.csv
OUTPUTS
    <results>/{ds}/convert/{shard}.parquet    the LEDGER, one row per image
    <store>/{ds}/{recipe}/...                 pixels; not declared, so that a rerun redoes only what is missing
"""


rule convert_shard:
    """A bad image is a row of the ledger with its error, never a dead job."""
    input:
        "<results>/{ds}/shards/{shard}.csv",
    output:
        "<results>/{ds}/convert/{shard}.parquet",
    log:
        "<results>/logs/convert/{ds}/{shard}.log",
    benchmark:
        "<results>/benchmarks/convert/{ds}/{shard}.jsonl"
    conda:
        "../../envs/convert.yaml"
    threads: 2
    resources:
        # Measured (docs/benchmarks.md): 200 + 270 for each thread on the largest mammograms, J2K.
        mem_mb=memory_mb(400, 300),
        # A resource, not a parameter: what does not change a pixel must not run a job again.
        image_seconds=config["image_seconds"],
        runtime=runtime_minutes(120),
    params:
        root=dataset_root,
        store=config["store"],
        settings=as_json(config["convert"]),
        recipe=convert_recipe,
    message:
        "Convert {wildcards.ds} {wildcards.shard}"
    shell:
        r"""
        python -m mammoflow convert {wildcards.ds} \
            --shard {input:q} \
            --root {params.root:q} \
            --store {params.store:q} \
            --ledger {output:q} \
            --settings {params.settings:q} \
            --threads {threads} \
            --image-seconds {resources.image_seconds} \
            2>&1 | tee {log:q}
        """
