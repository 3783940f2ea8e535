"""A run on a disk of its own that gets into trouble, and goes on once the trouble is over.

``unshare --map-root-user --mount python narrow.py FOLDER TROUBLE EXECUTOR`` mounts a small disk on the
folder; tells as JSON what the run said, and what its resume did.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from headrace import flow, task
from headrace.core.errors import HeadraceError
from headrace.storage.store import ArrowStore

SIZE, BYTES, TROUBLED = 24, 150_000, 8
DISK, TROUBLE, EXECUTOR = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
STARTS = Path(os.environ["STARTS"])


def mount(*options: str) -> None:
    subprocess.run(["mount", *options, str(DISK)], check=True)


def begin_trouble() -> None:
    if TROUBLE == "readonly":
        while subprocess.run(["mount", "-o", "remount,ro", DISK], check=False).returncode:
            time.sleep(0.01)  # it is refused while another thread writes a file
    elif TROUBLE == "gone":
        for place in DISK.iterdir():
            # At once: who removes a tree file by file fails where another makes one meanwhile.
            shutil.rmtree(place.rename(DISK / "removed"))


@task
def blob(number: int) -> bytes:
    with STARTS.open("ab", buffering=0) as file:
        file.write(f"{number}\n".encode())
    if number == TROUBLED and not os.environ.get("OVER"):
        begin_trouble()
    return number.to_bytes(2, "little") * (BYTES // 2)


@flow(executor=EXECUTOR, storage=str(DISK / "store"))
def blobs() -> int:
    return len(b"".join(blob.map(range(SIZE)).result()))


def main() -> None:
    mount("-t", "tmpfs", "-o", "size=2m" if TROUBLE == "full" else "size=64m", "none")
    run = blobs.start()
    run.wait()
    told = {
        "state": run.state.name,
        "message": run.state.message,
        "failures": sorted({row["message"] for row in run.failures().to_pylist()}),
        "kinds": sorted({row["kind"] for row in run.failures().to_pylist()}),
        "left": [str(place) for place in DISK.rglob("*")] if TROUBLE == "gone" else [],
    }
    kept = ArrowStore(DISK / "store").run(str(run.id))
    receipts = kept.receipts(None)
    for receipt in receipts:
        kept.open_part(receipt.part)  # checks it
    told["committed"] = sorted(p for receipt in receipts for p in receipt.positions)
    told["half"] = [info.path for info in kept.unfinished()]
    os.environ["OVER"] = "1"
    if TROUBLE != "gone":
        mount("-o", "remount,rw,size=64m")
    before = STARTS.read_text().split()
    try:
        told["result"] = run.resume().result()
    except HeadraceError as error:
        told["refused"] = f"{type(error).__name__}: {error}"
    told["again"] = [int(each) for each in STARTS.read_text().split()[len(before) :]]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
