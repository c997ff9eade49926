"""Gather: inventory + ledgers + label policy -> one table per dataset, and the gate on failures.

REQUIRED INPUTS
    <results>/{ds}/inventory/*.parquet, <results>/{ds}/convert/*.parquet, <results>/{ds}/crop/*.parquet
OUTPUTS
    <results>/{ds}/manifest.{parquet,csv}, findings.parquet, quarantine.csv, summary.json
"""


rule write_manifest:
    """A change of the label policy begins here: no pixel is converted again."""
    input:
        images="<results>/{ds}/inventory/images.parquet",
        findings="<results>/{ds}/inventory/findings.parquet",
        convert=convert_ledgers,
        crop=crop_ledgers,
    output:
        manifest="<results>/{ds}/manifest.parquet",
        csv="<results>/{ds}/manifest.csv",
        findings="<results>/{ds}/findings.parquet",
        quarantine=report(
            "<results>/{ds}/quarantine.csv",
            caption="../report/quarantine.rst",
            category="Archives",
            labels={"archive": "{ds}", "table": "images that could not be read"},
        ),
        summary="<results>/{ds}/summary.json",
    log:
        "<results>/logs/manifest/{ds}.log",
    benchmark:
        "<results>/benchmarks/manifest/{ds}.jsonl"
    conda:
        "../../envs/tabular.yaml"
    resources:
        mem_mb=memory_mb(3000),
        runtime=runtime_minutes(30),
    params:
        inventory=subpath(input.images, parent=True),
        out=subpath(output.manifest, parent=True),
        labels=as_json(config["labels"]),
        settings=as_json(config["manifest"]),
        for_processing=lambda wildcards: config["datasets"][wildcards.ds]["for_processing"],
        recipe=stage_recipe("manifest"),
    message:
        "Write the manifest of {wildcards.ds}"
    shell:
        r"""
        python -m mammoflow manifest {wildcards.ds} \
            --inventory {params.inventory:q} \
            --convert {input.convert:q} \
            --crop {input.crop:q} \
            --labels {params.labels:q} \
            --settings {params.settings:q} \
            --for-processing {params.for_processing} \
            --out {params.out:q} \
            2>&1 | tee {log:q}
        """
