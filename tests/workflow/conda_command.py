"""A ``conda`` command of as many sub-commands as Snakemake calls, over py-rattler and one local channel.

``MAMMOFLOW_TEST_CHANNEL`` (a file:// address) stands for every channel that an environment names. What it did is added
to ``$MAMMOFLOW_TEST_CHANNEL_LOG``, one JSON list of package file names per environment.
"""

import asyncio
import json
import os
import sys
from itertools import pairwise
from pathlib import Path

import rattler
import yaml

CHANNEL = os.environ["MAMMOFLOW_TEST_CHANNEL"]


async def records_of(file: Path) -> list:
    """Records to install: an explicit list with checksums as it is, anything else solved from the channel."""
    text = file.read_text()
    if "@EXPLICIT" not in text:
        specs = [item for item in yaml.safe_load(text)["dependencies"] if isinstance(item, str)]
        return await rattler.solve([CHANNEL], specs, platforms=["noarch"])
    wanted = dict(line.split("#") for line in text.splitlines() if line.startswith("file:"))
    names = sorted({url.rsplit("/", 1)[1].rsplit("-", 2)[0] for url in wanted})
    listed = await rattler.Gateway().query([CHANNEL], ["noarch"], names, recursive=False)
    chosen = [record for records in listed for record in records if str(record.url) in wanted]
    for record in chosen:
        if record.md5.hex() != wanted[str(record.url)]:
            sys.exit(f"{record.url}: the checksum is not that of the pin file")
    if len(chosen) != len(wanted):
        sys.exit("the channel lacks a pinned package")
    return chosen


async def create(file: Path, prefix: Path) -> None:
    records = await records_of(file)
    await rattler.install(records, prefix, cache_dir=prefix.parent / "pkgs", show_progress=False)
    with Path(os.environ["MAMMOFLOW_TEST_CHANNEL_LOG"]).open("a") as log:
        log.write(json.dumps([file.name, sorted(record.file_name for record in records)]) + "\n")


def main(words: list[str]) -> None:
    if words == ["info", "--json"]:
        home = Path(__file__).parent
        print(json.dumps({"conda_prefix": os.environ.get("MAMMOFLOW_TEST_CONDA", str(home)), "platform": "linux-64"}))
    elif words == ["--version"]:
        print("conda 25.1.0")
    elif words[:3] == ["config", "--get", "channel_priority"]:
        print(json.dumps({"get": {"channel_priority": "strict"}}))
    elif words[:1] == ["clean"]:
        pass  # the cache lies in the test's own directory
    elif "create" in words:
        options = dict(pairwise(words))
        asyncio.run(create(Path(options["--file"]), Path(options["--prefix"])))
    else:
        sys.exit(f"not expected of Snakemake: conda {' '.join(words)}")
    sys.stdout.flush()
    os._exit(0)  # py-rattler may abort while the interpreter ends


if __name__ == "__main__":
    main(sys.argv[1:])
