"""Write a run's models as safetensors and ONNX, to give away. Not part of `all`: ask for it with `snakemake export`.

REQUIRED INPUTS
    <results>/runs/{run}/{fold}/weights.safetensors
    <results>/runs/{run}/model_card.md
    <results>/packs/...index.parquet          a few images of it, to compare ONNX Runtime with torch on
OUTPUTS
    <results>/runs/{run}/export/export.json   written last, beside {fold}/model.{onnx,safetensors} and model_card.md
"""


rule export_run:
    """Without agreement of ONNX Runtime and torch nothing is written."""
    input:
        weights=run_weights,
        pack=run_pack_index,
        card="<results>/runs/{run}/model_card.md",
    output:
        "<results>/runs/{run}/export/export.json",
    log:
        "<results>/logs/export/{run}.log",
    conda:
        "../../envs/train.yaml"
    threads: 2
    resources:
        mem_mb=memory_mb(6000),
        runtime=runtime_minutes(60),
    params:
        run=subpath(input.card, parent=True),
        pack=subpath(input.pack, parent=True),
        out=subpath(output[0], parent=True),
        recipe=stage_recipe("export"),
    message:
        "Export the models of {wildcards.run}"
    shell:
        r"""
        python -m mammoflow export-model {params.run:q} \
            --pack {params.pack:q} \
            --out {params.out:q} \
            2>&1 | tee {log:q}
        """
