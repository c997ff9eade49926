"""Which filesystem a directory lies on, and whether such a filesystem is shared between machines."""

import re
from dataclasses import dataclass
from pathlib import Path

SHARED = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fhgfs", "fuse.ceph", "fuse.glusterfs", "fuse.juicefs", "fuse.sshfs",
    "glusterfs", "gpfs", "lustre", "moosefs", "fuse.mfs", "nfs", "nfs4", "orangefs", "panfs", "pvfs2", "quobyte",
    "smb3", "smbfs", "virtiofs", "vastnfs", "wekafs", "yas3fs",
}  # fmt: skip
PRIVATE = {"tmpfs", "ramfs", "overlay", "squashfs"}  # memory, or a container's own: never another node's


@dataclass(frozen=True)
class Mount:
    """A mount point and its filesystem's type, as the kernel names them."""

    point: str
    kind: str

    @property
    def shared(self) -> bool:
        return self.kind in SHARED


def mount_of(path: Path, table: Path = Path("/proc/self/mountinfo")) -> Mount:
    """The mount that holds ``path``, which need not exist yet. ``unknown`` where the system has no such table."""
    if not table.is_file():
        return Mount("?", "unknown")
    place = path.absolute()
    while not place.exists():
        place = place.parent
    place = place.resolve()
    best = Mount("/", "unknown")
    for mount in read_mounts(table.read_text(encoding="utf-8")):
        inside = place.is_relative_to(mount.point)
        if inside and (len(mount.point) >= len(best.point)):  # of several on one point the last one counts
            best = mount
    return best


def read_mounts(text: str) -> list[Mount]:
    """Mounts in the order of ``/proc/self/mountinfo`` (proc(5)): the point is field 5, the type follows ``-``."""
    mounts = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), left.split()[4])
        mounts.append(Mount(point, right.split()[0]))
    return mounts
