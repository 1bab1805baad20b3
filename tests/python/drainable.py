"""An application that holds connections and can be drained. Prints its port.

GET /stream stays open until its client leaves, and is refused once drained; GET /connections counts the open ones;
POST /__internal/drain drains. GET /health is 200, or 500 between GET /sick and GET /well.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()
state = {"open": 0, "drains": 0, "sick": False}


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/stream":
            return self.stream()
        if self.path in ("/sick", "/well"):
            state["sick"] = self.path == "/sick"
        if self.path == "/health" and state["sick"]:
            return self.answer(500)
        self.answer(200, json.dumps(state).encode())

    def do_POST(self):
        state["drains"] += 1
        self.answer(202)

    def stream(self):
        if state["drains"]:
            return self.answer(503)
        self.send_response(200)
        self.end_headers()
        with lock:
            state["open"] += 1
        self.connection.recv(1)
        with lock:
            state["open"] -= 1


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("port", server.server_address[1], flush=True)
server.serve_forever()
