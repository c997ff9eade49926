"""Start a training with the right number of processes: ``python -m mammoflow.train.launch --processes N -- train ...``.

One process needs no launcher. Several on one machine go through ``torchrun --standalone``. Under ``srun`` (one copy of
this program per node) the copies meet at the step's first node, so the same rule trains on a laptop and on a cluster.
"""

import argparse
import os
import subprocess
import sys

from mammoflow.errors import UserError

RENDEZVOUS_PORTS = (
    20000,
    20000,
)  # first port, and how many: the job's number picks one, so jobs on a node do not clash


def step_nodes(environment: dict[str, str]) -> list[str]:
    """Host names of the SLURM step, or an empty list outside of one. Raises UserError when ``scontrol`` fails."""
    nodelist = environment.get("SLURM_STEP_NODELIST", "")
    if not nodelist or int(environment.get("SLURM_STEP_NUM_NODES", "1")) < 2:
        return []
    answer = subprocess.run(["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise UserError(f"scontrol could not resolve the nodes {nodelist!r}: {answer.stderr.strip()}")
    return answer.stdout.split()


def command(processes: int, nodes: list[str], job_id: str, arguments: list[str]) -> list[str]:
    """The command that runs ``python -m mammoflow ARGUMENTS`` in ``processes`` processes on each of ``nodes``."""
    if processes == 1 and not nodes:
        return [sys.executable, "-m", "mammoflow", *arguments]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--max-restarts=0"]
    if nodes:
        first, count = RENDEZVOUS_PORTS
        port = first + int(job_id or 0) % count
        torchrun += [
            f"--nnodes={len(nodes)}",
            "--rdzv-backend=c10d",
            f"--rdzv-id=mammoflow-{job_id}",
            f"--rdzv-endpoint={nodes[0]}:{port}",
        ]
    else:
        torchrun.append("--standalone")
    return [*torchrun, "-m", "mammoflow", *arguments]


def threads_per_process(processes: int, environment: dict[str, str]) -> int:
    """Threads of each process: the job's share (OMP_NUM_THREADS, which Snakemake sets for a whole job) dealt evenly.

    Without this every process would start the whole job's threads, which then spend their time waiting for each other.
    """
    total = int(environment.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    return max(1, total // processes)


def main(argv: list[str]) -> None:
    """Replace this process by the training's, so that signals and the exit status pass through."""
    parser = argparse.ArgumentParser(prog="python -m mammoflow.train.launch", description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=1, help="processes per node")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="-- train ...")
    args = parser.parse_args(argv)
    arguments = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    try:
        nodes = step_nodes(dict(os.environ))
        started = command(args.processes, nodes, os.environ.get("SLURM_JOB_ID", ""), arguments)
    except UserError as error:
        sys.exit(f"mammoflow.train.launch: {error}")
    os.environ["OMP_NUM_THREADS"] = str(threads_per_process(args.processes, dict(os.environ)))
    where = f"each of {', '.join(nodes)}" if nodes else "this machine"
    print(f"training processes on {where}: {args.processes}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os.execv(started[0], started)


if __name__ == "__main__":
    main(sys.argv[1:])
