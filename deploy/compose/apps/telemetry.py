"""A telemetry container with several processes: a writer, a recorder and a status page.

The parent starts them and looks after none: whichever ends or hangs, the container goes on "running".
"""

import json
import multiprocessing
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

REDIS_URL = os.environ["REDIS_URL"]


def writer():
    """Publishes a heartbeat a second, and data ten times a second."""
    client = redis.from_url(REDIS_URL)
    born = time.monotonic()
    for n in range(1 << 62):
        try:
            if n % 10 == 0:
                beat = {"uptime_s": time.monotonic() - born, "wall_ts": time.time()}
                client.publish("telemetry_heartbeat", json.dumps(beat))
            client.publish("can_messages", json.dumps({"id": 0x123, "n": n}))
        except redis.RedisError as error:
            print("not published:", error, flush=True)
            time.sleep(1)
        time.sleep(0.1)


def recorder():
    """Counts what arrives (a real one writes it to a database), and says so in a key, over another connection."""
    client = redis.from_url(REDIS_URL)
    rows = 0
    while True:
        try:
            with client.pubsub() as pubsub:
                pubsub.subscribe("can_messages")
                for message in pubsub.listen():
                    rows += message["type"] == "message"
                    if rows % 10 == 0:
                        report = {"ok": True, "rows": rows, "errors": 0, "ts": time.time()}
                        client.set("timescale:status", json.dumps(report), ex=60)
        except redis.RedisError as error:
            print("not recorded:", error, flush=True)
            time.sleep(1)


class Status(BaseHTTPRequestHandler):
    """GET /health says when the car was last heard of."""

    def do_GET(self):
        body = json.dumps({"healthy": True, "car": {"seen_s_ago": 0.1}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def status():
    ThreadingHTTPServer(("", 8080), Status).serve_forever()


def child(work):
    # What `ps` and `pidof` show.
    with open("/proc/self/comm", "w") as comm:
        comm.write(work.__name__)
    work()


if __name__ == "__main__":
    children = [multiprocessing.Process(target=child, args=[work]) for work in (writer, recorder, status)]
    for process in children:
        process.start()
    for process in children:
        process.join()
