"""moto's S3 in a process of its own, for in the tests' process it would share their GIL."""

from moto.server import ThreadedMotoServer
from servers.lifeline import announce_and_wait

if __name__ == "__main__":
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    announce_and_wait(endpoint=f"http://{host}:{port}")
    server.stop()
