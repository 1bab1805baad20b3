"""A realtime server on port 3002: what is published on the channel `realtime` goes to whoever streams that room.

GET  /stream?ROOM         server-sent events, until the client leaves. (That is noticed when the room has its next
                          event: in a quiet room, clients who left are counted for hours. It is a common fault.)
GET  /metrics             how many it counts, for Prometheus; GET /health: the same as JSON
POST /__internal/drain    nobody may come any more

realtime.py healthz: its container's health check. It does here what a kubelet does in a pod: ends the application while
the node beside it says so.
"""

import collections
import json
import os
import queue
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

rooms = collections.defaultdict(set)
draining = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        path, _, room = self.path.partition("?")
        streams = sum(map(len, list(rooms.values())))
        if path == "/stream" and not draining.is_set():
            self.stream(room)
        elif path == "/metrics":
            self.answer(200, f"# TYPE realtime_connections gauge\nrealtime_connections {streams}\n")
        elif path == "/health":
            self.answer(200, json.dumps({"streams": streams, "draining": draining.is_set()}))
        else:
            self.answer(503 if path == "/stream" else 404, "")

    def do_POST(self):
        draining.set()
        self.answer(202, "")

    def stream(self, room):
        events = queue.SimpleQueue()
        rooms[room].add(events)
        try:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            while True:
                self.wfile.write(b"data: " + events.get() + b"\n\n")
        except OSError:
            rooms[room].discard(events)

    def log_message(self, *_):
        pass


def listen():
    client = redis.from_url(os.environ["REDIS_URL"])
    while True:
        try:
            with client.pubsub() as pubsub:
                pubsub.subscribe("realtime")
                for message in pubsub.listen():
                    if message["type"] == "message":
                        for events in list(rooms[json.loads(message["data"])["room"]]):
                            events.put(message["data"])
        except redis.RedisError as error:
            print("not heard:", error, flush=True)
            time.sleep(1)


def healthz():
    try:
        urllib.request.urlopen("http://127.0.0.1:7337/healthz/realtime", timeout=2).close()
    except urllib.error.HTTPError as error:
        if error.code == 503:
            # All but the first process, which then ends the container; its restart policy starts it anew.
            os.kill(-1, signal.SIGKILL)
    except OSError:
        pass  # That the node is away is no reason to end.


if sys.argv[1:] == ["healthz"]:
    healthz()
else:
    threading.Thread(target=listen, daemon=True).start()
    ThreadingHTTPServer(("", 3002), Handler).serve_forever()
