"""The smallest Ceph that serves S3: one monitor, one OSD in memory, radosgw. Loopback only, as root.

Each daemon stays in the foreground, as a child of this process, which ends it by its process id.
cephx must be on (with authentication "none" radosgw never starts), and ``rgw dns name`` must be the
address that clients use.
"""

import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from servers.lifeline import announce_and_wait

KEY, SECRET = "TESTACCESSKEY", "TESTSECRETKEY"
START_SECONDS = 90

CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
public addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
osd objectstore = memstore
osd data = {folder}/osd
osd max object name len = 1024
memstore device bytes = 8589934592
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data = {folder}/mon
mon data avail crit = 1
mon data avail warn = 1
ms bind ipv6 = false
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/log/$name.log
keyring = {folder}/keyring
rgw data = {folder}/rgw
rgw dns name = 127.0.0.1
rgw frontends = beast endpoint=127.0.0.1:{s3}
rgw thread pool size = 64
rgw run sync thread = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw enable usage log = false
[osd]
keyring = {folder}/osd/keyring
"""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(*command: str | Path) -> None:
    """Run a command to its end; what it says of trouble goes to standard error."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@contextmanager
def daemon(*command: str | Path) -> Generator[None]:
    """Run a Ceph daemon in the foreground; end it at the end."""
    process = subprocess.Popen(
        [*command, "--foreground"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_port(port: int) -> None:
    """Return when somebody listens on it."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def start_ceph(folder: Path, s3_port: int, daemons: ExitStack) -> None:
    """Lay the cluster out in an empty folder, and start its daemons in order."""
    for name in ("mon", "osd", "rgw", "run", "log"):
        (folder / name).mkdir()
    v2, v1 = free_ports(2)
    fsid = str(uuid.uuid4())
    conf = folder / "ceph.conf"
    conf.write_text(CONFIGURATION.format(folder=folder, fsid=fsid, v2=v2, v1=v1, s3=s3_port))
    use = ("--conf", conf)

    keyring, monmap, osd_keyring = folder / "keyring", folder / "monmap", folder / "osd/keyring"
    everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
    run("ceph-authtool", keyring, "--create-keyring", "--gen-key", "-n", "mon.", *everything[:3])
    run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *everything)
    address = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
    run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
    run("ceph-mon", *use, "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
    daemons.enter_context(daemon("ceph-mon", *use, "-i", "a"))

    run("ceph", *use, "osd", "create")
    rights = ("mon", "allow profile osd", "osd", "allow *", "mgr", "allow *")
    run("ceph", *use, "auth", "get-or-create", "osd.0", *rights, "-o", osd_keyring)
    run("ceph-osd", *use, "-i", "0", "--mkfs")
    daemons.enter_context(daemon("ceph-osd", *use, "-i", "0"))

    user = ("--uid", "test", "--display-name", "test", "--access-key", KEY, "--secret-key", SECRET)
    run("radosgw-admin", *use, "user", "create", *user)
    daemons.enter_context(daemon("radosgw", *use, "-n", "client.admin"))
    wait_for_port(s3_port)


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory(prefix="headrace-ceph-", ignore_cleanup_errors=True) as place,
        ExitStack() as daemons,
    ):
        (s3_port,) = free_ports(1)
        start_ceph(Path(place), s3_port, daemons)
        announce_and_wait(endpoint=f"http://127.0.0.1:{s3_port}", key=KEY, secret=SECRET)
