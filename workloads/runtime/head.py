"""The process that holds a local Ray: it starts the head, and when its owner is gone nothing is left.

``python -m workloads.runtime.head`` reads its settings (one line of JSON) from stdin, starts Ray, says
on stdout (one line of JSON) where it is, and waits for the end of its stdin. The pipe closes when the
owner closes it or dies, however it dies. Then every process of this Ray is killed by its id, the logs go
to their folder, and the temporary folder is removed. Needs Linux.
"""

import contextlib
import ctypes
import json
import os
import secrets
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

LOCALHOST = "127.0.0.1"
PORTS = (
    "port",
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "dashboard-metric",
)
DASHBOARD_MODULES = "JobHead,NodeHead"
"""What the job API needs: jobs, and who is the head node. The other nine are processes of 90 MB each."""
SOCKET_ROOM = 75
"""Bytes that Ray's longest socket name adds to its temporary folder; Linux allows 107 in all."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Hold a Ray until the owner's pipe closes."""
    settings = json.loads(sys.stdin.readline())
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of Ray become our children, so that none escapes
    temp = Path(tempfile.mkdtemp(prefix="tw-", dir=_short_temp()))
    try:
        _hold(settings, temp)
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        kill_descendants()
        _keep_logs(temp, Path(settings["logs"]))
        shutil.rmtree(temp, ignore_errors=True)


def trim(params: Any, head: bool) -> None:
    """Ray's start hook (RAY_START_HOOK): leave out what a local Ray does not need.

    No Ray client server, and of the dashboard only the job API. The first has no switch; the second is an
    argument of Ray's dashboard process that no command line reaches.
    """
    del head
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    params.ray_client_server_port = None
    from ray._private import services

    start = services.start_ray_process

    def start_trimmed(command: list[str], process_type: str, **options: Any) -> Any:
        if process_type == "dashboard":
            command = [*command, f"--modules-to-load={DASHBOARD_MODULES}"]
        return start(command, process_type, **options)

    services.start_ray_process = start_trimmed  # type: ignore[assignment]


def kill_descendants(patience_s: float = 30.0) -> None:
    """Kill every process below this one, by id, until there is none."""
    end = time.monotonic() + patience_s
    while (below := descendants(os.getpid())) and time.monotonic() < end:
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """Ids of all processes below one, the dead that nobody has waited for included."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(entry.path, "stat").read_bytes()
                parent = int(stat.rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, look = [], [pid]
    while look:
        look = [child for parent in look for child in children.get(parent, [])]
        found += look
    return found


def _hold(settings: dict[str, Any], temp: Path) -> None:
    token = secrets.token_hex(32)
    token_file = temp / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    api = f"http://{LOCALHOST}:{ports['dashboard-port']}"
    ray = _start(settings, temp, token_file, ports)
    end = time.monotonic() + settings["patience_s"]
    agent = f"http://{LOCALHOST}:{ports['dashboard-agent-listen-port']}"
    while not (_answers(f"{api}/api/version", token) and _answers(f"{agent}/api/healthz", token)):
        if _ended(ray, 0.1):
            return
        if time.monotonic() > end:
            _say(error=f"Ray did not answer within {settings['patience_s']:g} s")
            return
    _say(api=api, gcs=f"{LOCALHOST}:{ports['port']}", token_file=str(token_file), temp=str(temp))
    while not _ended(ray, 1.0):
        pass


def _start(settings: dict[str, Any], temp: Path, token_file: Path, ports: dict[str, int]) -> int:
    """Start the head node; its process id. All that it writes goes to our stderr."""
    metric = ports["dashboard-metric"]
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        f"--node-ip-address={LOCALHOST}",
        f"--dashboard-host={LOCALHOST}",
        f"--num-cpus={settings['cpus']}",
        f"--object-store-memory={settings['object_store_bytes']}",
        f"--temp-dir={temp / 'r'}",  # below ours: Ray opens its folder to everybody
        *(f"--{name}={port}" for name, port in ports.items() if name != "dashboard-metric"),
        *("--min-worker-port=0", "--max-worker-port=0"),  # any free one
        *("--disable-usage-stats", "--no-monitor", "--include-log-monitor=false"),
    ]
    environment = {
        **os.environ,
        **settings["environment"],
        "DASHBOARD_METRIC_PORT": str(metric),
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_JOB_STOP_WAIT_TIME_S": "10",
        "RAY_START_HOOK": "workloads.runtime.head.trim",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    nothing_in = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    out_to_stderr = (os.POSIX_SPAWN_DUP2, 2, 1)
    return os.posix_spawn(command[0], command, environment, file_actions=[nothing_in, out_to_stderr])


def _ended(ray: int, timeout_s: float) -> bool:
    """Wait for the owner's end or Ray's end, for some time."""
    gone, _, _ = select.select([sys.stdin], [], [], timeout_s)
    if gone:
        return True
    if ray in _reap():
        _say(error="Ray ended by itself")
        return True
    return False


def _reap() -> list[int]:
    """Wait for the children that are dead already; their ids."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            found.append(pid)
    return found


def _answers(url: str, token: str) -> bool:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310  # ours
    try:
        with urllib.request.urlopen(request, timeout=5.0) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_ports(count: int) -> list[int]:
    """Distinct ports that nobody on this machine listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOCALHOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _short_temp() -> str:
    """The temporary folder, or /tmp where a socket's name would be too long for Linux."""
    usual = tempfile.gettempdir()
    return usual if len(usual.encode()) + len("/tw-xxxxxxxx/r") + SOCKET_ROOM <= 107 else "/tmp"  # noqa: S108


def _keep_logs(temp: Path, logs: Path) -> None:
    for folder in temp.glob("r/session_2*/logs"):
        with contextlib.suppress(OSError):
            shutil.copytree(folder, logs, dirs_exist_ok=True)
            for place, _, _ in os.walk(logs):
                Path(place).chmod(0o755)  # Ray's own are open to everybody


def _say(**fields: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    main()
