"""Archives without a public route: say where to apply and what to put where, then check what lies there."""

from pathlib import Path

from mammoflow.datasets import archive
from mammoflow.datasets.detection import describe, search


def check(dataset: str, root: Path) -> int:
    """Print how to get the archive, or that it is complete. Returns 0 when it is complete, 1 otherwise."""
    entry = archive(dataset)
    detections = search(root) if root.is_dir() else []
    found = next((one for one in detections if one.dataset == dataset), None)
    if found and not found.missing:
        print(describe(found))
        if found.root == root:
            return 0
        print(f"name that directory: --out {found.root}, and datasets.{dataset}.root in the configuration")
        return 1
    print(f"{entry.title}\n  licence: {entry.licence}\n  access: {entry.access}\n  put into {root}: {entry.put_here}")
    print(f"  cite: {entry.citation}" if entry.citation else "  it is your own archive")
    print(describe(found) if found else f"  nothing of it lies in {root} yet")
    print("then run the same command again: it checks what is there")
    return 1
