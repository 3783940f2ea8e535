"""JupyterLab on a port of its own, with settings and a home of its own."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from servers.lifeline import announce_and_wait

TOKEN = "a-token-of-the-tests"
NO_NEWS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}


def main() -> None:
    """Start it, say where, and end it with its kernels when standard input ends."""
    with tempfile.TemporaryDirectory() as folder:
        home, root = Path(folder, "home"), Path(folder, "notebooks")
        home.mkdir()
        root.mkdir()
        overrides = home / "settings"
        overrides.mkdir()
        (overrides / "overrides.json").write_text(json.dumps(NO_NEWS))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
                *("--ip=127.0.0.1", "--port=0", f"--IdentityProvider.token={TOKEN}"),
                *(f"--ServerApp.root_dir={root}", f"--LabApp.app_settings_dir={overrides}"),
                "--LabServerApp.extension_manager=readonly",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | {
                "HOME": str(home),
                "JUPYTER_PLATFORM_DIRS": "1",
                "JUPYTER_CONFIG_DIR": str(home / "config"),
                "IPYTHONDIR": str(home / "ipython"),
            },
        )
        try:
            assert process.stdout is not None
            told = ""
            for line in process.stdout:
                told += line
                if found := re.search(r"http://127\.0\.0\.1:(\d+)/lab", line):
                    break
            else:
                raise RuntimeError(f"JupyterLab did not start:\n{told}")
            url = f"http://127.0.0.1:{found[1]}/lab"
            announce_and_wait(url=url, token=TOKEN, root=str(root))
        finally:
            process.terminate()  # twice is at once; once asks nobody where there is no terminal
            process.wait()


if __name__ == "__main__":
    main()
