"""Whether one machine is fit for trials: checks that run here, or as a task on every node of a cluster.

Loads Ray only to count cores, and torch to count GPUs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kd_tune.errors import ConfigError
from kd_tune.findings import Finding, failed, passed, warned
from kd_tune.manifest import versions
from kd_tune.node_files import Parcel, check_parcels
from kd_tune.ray_checks import check_telemetry, check_token
from kd_tune.storage import Storage

GB = 10**9
MARKER = ".kd_tune_doctor_"
COMPUTING = ("python", "ray", "torch", "torchvision", "numpy")  # what a trial loads; the others serve the driver alone
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 # it is measured, not written to
NVIDIA = Path("/dev/nvidiactl")  # there where its driver is loaded

# What to do where nodes do not see one folder for their runs.
SHARE = "runs on several nodes need a folder that all of these share under one path, or --storage"

# A place takes 0.7 GB for torch and some hundred MB of data; two of them and Ray are the least.
LEAST_MEMORY, MEMORY_A_CORE = 2 * GB, GB
# A search over 90 small students writes some tens of MB, the answers for all views of CIFAR-10 are 162 MB.
LEAST_DISK, ENOUGH_DISK = GB, 10 * GB
# Ray wants 30 % of memory for its objects; up to 10 GB it puts up with a disk instead of /dev/shm, and is slower.
SHARE_OF_OBJECTS, MOST_OBJECTS = 0.3, 10 * GB
STORAGE_SECONDS = 20.0  # in which a storage must answer


@dataclass(frozen=True)
class Folder:
    """A folder that trials write to.

    Attributes:
        name: for a person.
        meant: the folder itself, which need not exist yet.
        path: it, or the nearest one above it that exists where the question was asked.
        marker: a file that lies in it, if it is the same folder everywhere; empty: not asked.
        must_be_shared: whether one of the node's own will not do.
    """

    name: str
    meant: str
    path: str
    marker: str = ""
    must_be_shared: bool = True


@dataclass(frozen=True)
class Node:
    """What is asked of a machine.

    Attributes:
        folders: that it must be able to write.
        starts_ray: whether kd_tune starts Ray on it; else it is a node of a cluster that runs, or joins one.
        is_head: whether its settings are those of the cluster.
        versions: that it must have; empty: not asked.
        storage: URL of a storage that it must be able to write, if there is one.
        parcels: files that trials read.
    """

    folders: tuple[Folder, ...]
    starts_ray: bool
    is_head: bool
    versions: Mapping[str, str | None]
    storage: str | None = None
    parcels: tuple[Parcel, ...] = ()


def check_node(node: Node) -> list[Finding]:
    """Everything about the machine that this runs on."""
    findings = [check_same_versions(node.versions, versions())] if node.versions else []
    findings += [check_devices(), check_memory(available_memory()), check_shared_memory(*shared_memory())]
    temporary = Folder("temporary files (Ray's logs and objects)", tempfile.gettempdir(), tempfile.gettempdir())
    findings += [check_disk(folder) for folder in (*node.folders, temporary) if Path(folder.path).is_dir()]
    findings += check_folders(node.folders) + check_parcels(node.parcels)
    if node.storage is not None:
        findings.append(check_storage(node.storage))
    findings.append(check_token(os.environ, node.starts_ray))
    if node.is_head:
        findings.append(check_telemetry(os.environ, node.starts_ray))
    return findings


def check_same_versions(expected: Mapping[str, str | None], found: Mapping[str, str | None]) -> Finding:
    """Whether a node computes with what the driver computes with."""
    others = [f"{name} {found[name]}, not {expected[name]}" for name in COMPUTING if found[name] != expected[name]]
    if others:
        return failed("versions", "; ".join(others), "install the same on every node (constraints.txt)")
    return passed("versions", "as where the search is started")


def num_cores() -> int:
    """Cores that Ray would take for this machine's: within a container, those that it may use."""
    from ray._private.utils import get_num_cpus

    return int(get_num_cpus(override_docker_cpu_warning=True))


def check_devices() -> Finding:
    """Cores, and the GPUs that torch sees; a GPU that it does not see should not go unnoticed."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = f"{num_cores()} CPU cores; GPUs: {', '.join(gpus) or 'none'}"
    if not gpus and NVIDIA.exists() and "CUDA_VISIBLE_DEVICES" not in os.environ:
        mend = f"torch {torch.__version__} wants a newer driver, or is a build without CUDA: see pytorch.org"
        return warned("devices", f"{found}, though NVIDIA's driver is loaded", mend)
    return passed("devices", found)


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that new processes may take, also within a container (cgroup v2); None if this system does not say."""
    if not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit = cgroup / "memory.max"
    if not limit.exists() or limit.read_text(encoding="utf-8").strip() == "max":
        return free
    held = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="utf-8").splitlines())
    used = int((cgroup / "memory.current").read_text(encoding="utf-8")) - int(held["inactive_file"])
    return min(free, int(limit.read_text(encoding="utf-8")) - used)


def check_memory(available: int | None) -> Finding:
    """Whether the trials that fill all cores fit into memory."""
    if available is None:
        return warned("memory", "this system does not say what is free", "see that 1 GB a core is")
    found, cores = f"{available / GB:.1f} GB free", num_cores()
    if available < LEAST_MEMORY:
        return failed("memory", found, f"free {LEAST_MEMORY / GB:.0f} GB: Ray ends trials where memory runs out")
    if available < cores * MEMORY_A_CORE:
        return warned("memory", f"{found} for {cores} cores", "free 1 GB a core, or raise resources.cpus_per_trial")
    return passed("memory", found)


def shared_memory(folder: Path = SHARED_MEMORY) -> tuple[int, int]:
    """Free bytes of shared memory, and how many Ray would like for its objects; both 0 if this system has none."""
    if not folder.is_dir():
        return 0, 0
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return shutil.disk_usage(folder).free, min(int(memory * SHARE_OF_OBJECTS), MOST_OBJECTS)


def check_shared_memory(free: int, wanted: int) -> Finding:
    """Whether Ray's objects stay in memory."""
    found = f"{free / GB:.1f} GB free in /dev/shm" if wanted else "none on this system"
    if free < wanted:
        mend = f"docker run --shm-size={wanted / GB:.0f}g, or an emptyDir of medium Memory in Kubernetes"
        return warned("shared memory", f"{found}, so that Ray keeps objects on disk", mend)
    return passed("shared memory", found)


def check_disk(folder: Folder) -> Finding:
    """Whether there is room where a folder lies."""
    check, free = f"disk, {folder.name}", shutil.disk_usage(folder.path).free
    found = f"{free / GB:.1f} GB free at {folder.path}"
    if free < LEAST_DISK:
        return failed(check, found, "make room, or choose a folder on another disk")
    if free < ENOUGH_DISK:
        return warned(check, found, "make room: a long search with large data takes more")
    return passed(check, found)


def check_storage(url: str) -> Finding:
    """Whether a file can be written there and deleted."""
    try:
        Storage(url, STORAGE_SECONDS).check()
    except ConfigError as error:
        mend = "see that this node reaches it, and has credentials for it (AWS_ACCESS_KEY_ID and so on, or a role)"
        return failed("storage", str(error), mend)
    return passed("storage", f"{url}: can be written")


def check_folders(folders: Iterable[Folder]) -> list[Finding]:
    """`check_folder` of each."""
    return [check_folder(folder) for folder in folders]


def check_folder(folder: Folder) -> Finding:
    """Whether a file can be written and deleted, and whether it is the folder that was meant."""
    check, path = f"{folder.name} folder", Path(folder.path)
    if not path.is_dir():
        return failed(check, f"{path}: no such folder", SHARE)
    if folder.marker and not (path / folder.marker).exists():
        found = f"{path}: a folder of this node alone"
        if folder.must_be_shared:
            return failed(check, found, SHARE)
        return warned(check, found, "mount one that all nodes share there; or else what trials need of it is sent")
    try:
        with tempfile.NamedTemporaryFile(dir=path, prefix=MARKER) as file:
            file.write(b"kd_tune")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return failed(check, f"{path}: cannot be written: {error.strerror}", f"chmod u+rwx {path}, or name another")
    return passed(check, f"{path}: can be written" + ("" if folder.meant == str(path) else f", for {folder.meant}"))
