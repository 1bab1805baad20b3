"""A web application on port 3000, and the cron that calls it.

app.py        GET /api/health; POST /api/jobs tells everybody who streams the room `jobs`
app.py cron   calls /api/jobs every 2 s, in the application's own network
app.py ran    exits with 0 if cron's last call that was answered is not older than 10 s: its container's health check
"""

import json
import os
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

LAST = "/tmp/last"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.answer(200 if self.path == "/api/health" else 404)

    def do_POST(self):
        if self.path != "/api/jobs":
            return self.answer(404)
        client.publish("realtime", json.dumps({"room": "jobs", "ran": time.time()}))
        self.answer(202)

    def log_message(self, *_):
        pass


def cron():
    while True:
        try:
            urllib.request.urlopen("http://127.0.0.1:3000/api/jobs", b"", timeout=5).close()
            open(LAST, "w").close()
        except OSError as error:
            print("not called:", error, flush=True)
        time.sleep(2)


match sys.argv[1:]:
    case ["cron"]:
        cron()
    case ["ran"]:
        sys.exit(not os.path.exists(LAST) or time.time() - os.stat(LAST).st_mtime > 10)
    case _:
        client = redis.from_url(os.environ["REDIS_URL"])
        ThreadingHTTPServer(("", 3000), Handler).serve_forever()
