"""Which images, findings and exams an archive holds, and how they are dealt to jobs. Reads tables and headers only.

REQUIRED INPUTS
    the raw archive below `data` (a parameter, never an input)
    <results>/{ds}/collected.json, where the configuration asks for a collect
OUTPUTS
    <results>/{ds}/inventory/{images,findings,exams}.parquet
    <results>/{ds}/shards/{shard}.csv and {shard}.findings.csv
"""


rule list_archive:
    """One row per image, finding and exam. Look again at a changed archive with `snakemake -R list_archive`."""
    input:
        collected_record,
    output:
        images="<results>/{ds}/inventory/images.parquet",
        findings="<results>/{ds}/inventory/findings.parquet",
        exams="<results>/{ds}/inventory/exams.parquet",
    log:
        "<results>/logs/inventory/{ds}.log",
    benchmark:
        "<results>/benchmarks/inventory/{ds}.jsonl"
    conda:
        "../../envs/convert.yaml"
    threads: 2
    resources:
        mem_mb=memory_mb(2000),
        runtime=runtime_minutes(60),
    params:
        root=dataset_root,
        settings=inventory_settings,
        recipe=inventory_recipe,
        out=subpath(output.images, parent=True),
    message:
        "List the archive {wildcards.ds}"
    shell:
        r"""
        python -m mammoflow inventory {wildcards.ds} {params.root:q} \
            --out {params.out:q} \
            --settings {params.settings:q} \
            2>&1 | tee {log:q}
        """


# One rule per block of shards, since the files that a rule writes must be known when it is read.
for dataset_name, block in deal_blocks():

    rule:
        name:
            f"deal_{dataset_name}" if block.start == 0 else f"deal_{dataset_name}_{block.start:04d}"
        input:
            images=f"<results>/{dataset_name}/inventory/images.parquet",
            findings=f"<results>/{dataset_name}/inventory/findings.parquet",
        output:
            images=expand("<results>/{ds}/shards/{shard}.csv", ds=dataset_name, shard=shard_names(dataset_name)[block]),
            findings=expand(
                "<results>/{ds}/shards/{shard}.findings.csv", ds=dataset_name, shard=shard_names(dataset_name)[block]
            ),
        log:
            f"<results>/logs/shards/{dataset_name}-{block.start:04d}.log",
        conda:
            "../../envs/convert.yaml"
        resources:
            mem_mb=memory_mb(2000),
            runtime=runtime_minutes(30),
        params:
            ds=dataset_name,
            shards=len(shard_names(dataset_name)),
            first=block.start,
            last=block.stop - 1,
            max_images=config["datasets"][dataset_name]["max_images"] or 0,
            inventory=subpath(input.images, parent=True),
            out=lambda wildcards, output: str(Path(output.images[0]).parent),
            recipe=stage_recipe("shard"),
        message:
            "Deal the patients of one archive to shards"
        shell:
            r"""
            python -m mammoflow shard {params.ds} \
                --inventory {params.inventory:q} \
                --out {params.out:q} \
                --shards {params.shards} \
                --first {params.first} \
                --last {params.last} \
                --max-images {params.max_images} \
                2>&1 | tee {log:q}
            """
