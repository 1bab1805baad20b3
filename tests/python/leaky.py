"""An application with a metrics page, whose connections and memory can leak.

    leaky.py PORT METRICS_PORT [leak]

Accepts connections on PORT and counts them in the gauge `ws_connections`, by worker, beside the counter
`ws_messages_total`. With `leak` it never looks at a connection again: one that its client closed stays counted, and
stays in CLOSE_WAIT. Without, it closes and counts off.
"""

import socket
import sys
import threading

from prometheus_client import Counter, Gauge, start_http_server

port, metrics_port = int(sys.argv[1]), int(sys.argv[2])
leak = "leak" in sys.argv
connections = Gauge("ws_connections", "Connections that are open, it thinks.", ["worker"])
messages = Counter("ws_messages", "Messages that came.")
held = []


def serve(connection, gauge):
    while connection.recv(4096):
        messages.inc()
    gauge.dec()
    connection.close()


listener = socket.create_server(("127.0.0.1", port), backlog=512)
start_http_server(metrics_port, "127.0.0.1")
print("ready", flush=True)
number = 0
while True:
    connection, _ = listener.accept()
    number += 1
    gauge = connections.labels(str(number % 4))
    gauge.inc()
    held.append(connection)
    if not leak:
        threading.Thread(target=serve, args=(connection, gauge), daemon=True).start()
