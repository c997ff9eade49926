"""Fetch the archives whose configuration asks for it (`datasets.<ds>.collect`). The others are expected to be there.

REQUIRED INPUTS
    none; the network. These are local rules: they run where Snakemake runs, on a cluster the node with the network
OUTPUTS
    <results>/{ds}/collected.json    a copy of the record, once everything is there and verified
    the archive below `data`         not declared: Snakemake would delete it before a job is repeated
"""

for dataset_name in config["datasets"]:
    if config["datasets"][dataset_name]["collect"] is not None:

        rule:
            name:
                f"collect_{dataset_name}"
            output:
                f"<results>/{dataset_name}/collected.json",
            log:
                f"<results>/logs/collect/{dataset_name}.log",
            localrule: True
            conda:
                "../../envs/collect.yaml"
            params:
                ds=dataset_name,
                root=dataset_directory(dataset_name),
                settings=as_json(config["datasets"][dataset_name]["collect"]),
            message:
                "Collect one archive; a stopped or failed job goes on where it was"
            shell:
                r"""
                python -m mammoflow collect {params.ds} \
                    --out {params.root:q} \
                    --settings {params.settings:q} \
                    --record {output:q} \
                    2>&1 | tee {log:q}
                """
