#!/usr/bin/env python3
"""Races for one restart: several nodes watch one process that is killed again and again, while nodes are stopped
(SIGSTOP) at random moments from the death on, between the grant and the executor's look among them.

Every start beyond one for each death is a duplicate. One hit a newer life if that was there when the remedy began: the
fence was passed, and the world moved on before the act, which is inside of the window that is measured. Prints a Markdown table. DEFIB names the binary; RACES how many (default 1000).
"""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import json

RACES = int(os.environ.get("RACES", "1000"))
NODES = int(os.environ.get("NODES", "3"))
SEED = int(os.environ.get("SEED", "1"))
DEFIB = os.environ["DEFIB"]
# One race of so many lasts until somebody that was not stopped has healed.
LONG = 50
PATIENCE = 120

CONFIG = """
node = "n{node}"
group = "races"
[bus]
url = "redis://127.0.0.1:{port}"
settle = "1s"
[heartbeat]
interval = "300ms"
[budget]
spacing = "0s"
[http]
listen = "127.0.0.1:0"
[peer.app]
owner = {{ pid_file = "{dir}/pid" }}
grace = "200ms"
healthz_hold = "1s"
backoff = {{ initial = "100ms", max = "100ms" }}
budget = {{ count = 80, window = "10s" }}
checks.process = {{ interval = "100ms" }}
remedies = [{{ do = "exec", command = ["{dir}/start", "n{node}"], timeout = "1s", verify_within = "5s" }}]
"""

# What ran is looked at before anything is started: a line says who began, when, and whether a life ran already.
START = """#!/bin/sh
cd {dir} || exit 1
now=$(cat pid 2>/dev/null)
case "$DEFIB_INCARNATION" in "" | *":$now:"*) newer=no ;; *) newer=yes ;; esac
echo "$1 $newer $DEFIB_INCARNATION" >>starts
setsid sleep 3600 </dev/null >/dev/null 2>&1 &
echo $! >>started
echo $! >pid.$$
mv pid.$$ pid
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, is_so):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if is_so():
            return
        time.sleep(0.005)
    sys.exit(f"waited in vain until {what}")


class Node:
    def __init__(self, base, number, port):
        self.dir = base / f"node{number}"
        self.dir.mkdir()
        file = self.dir / "defib.toml"
        file.write_text(CONFIG.format(node=number, port=port, dir=base))
        environment = dict(os.environ, STATE_DIRECTORY=str(self.dir), RUNTIME_DIRECTORY=str(self.dir))
        self.log = open(self.dir / "log", "wb")
        self.process = subprocess.Popen(
            [DEFIB, "run", "--config", str(file)], env=environment, stdout=self.log, stderr=self.log
        )
        self.address = None

    def status(self):
        if self.address is None:
            text = (self.dir / "log").read_text(errors="replace")
            if "http://" not in text:
                return None
            self.address = text.split("http://")[1].split("/")[0].split()[0].strip("\"',;")
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/status", timeout=5) as answer:
                return json.load(answer)["snapshot"]
        except OSError:
            return None

    def is_calm(self, pid):
        """It has seen that life, and nothing is wrong with it."""
        snapshot = self.status()
        if not snapshot or snapshot["trust"]["bus"] != "trusted" or snapshot["trust"]["settling_until"]:
            return False
        peer = snapshot["peers"][0]
        lives = f":{pid}:" in (peer["incarnation"] or "")
        return lives and peer["liveness"] == "alive" and peer["episode"] is None

    def metric(self, name):
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def redis_server(folder):
    """A server of its own that answers, and its port."""
    while True:
        port = free_port()
        words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        # Somebody else may have taken the port meanwhile: then it ends, and another one is tried.
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return process, port
            except OSError:
                time.sleep(0.02)


def started(base):
    """Every process that was ever started: whoever was restarted beside a life leaves that one behind."""
    path = base / "started"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def end(pid):
    try:
        if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\x00" + b"3600"):
            os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def lines(base):
    try:
        return (base / "starts").read_text().splitlines()
    except FileNotFoundError:
        return []


def main():
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as name:
        base = pathlib.Path(name)
        redis, nodes = None, []
        try:
            redis, port = redis_server(name)
            start = base / "start"
            start.write_text(START.format(dir=base))
            start.chmod(0o755)
            subprocess.run([str(start), "nobody"], check=True)
            for number in range(NODES):
                nodes.append(Node(base, number, port))
            race(rng, base, nodes)
        finally:
            for node in nodes:
                node.process.send_signal(signal.SIGCONT)
                node.process.kill()
                node.process.wait()
            if redis:
                redis.kill()
                redis.wait()
            for pid in started(base):
                end(pid)


def pid_of(base):
    return int((base / "pid").read_text())


def all_calm(base, nodes, killed):
    def is_so():
        pid = pid_of(base)
        return pid != killed and all(node.is_calm(pid) for node in nodes)

    until("all nodes are calm", is_so)


def race(rng, base, nodes):
    all_calm(base, nodes, None)
    began, several, hit, stops = time.monotonic(), 0, 0, 0
    by = {}
    for number in range(RACES):
        before = len(lines(base))
        killed = pid_of(base)
        os.kill(killed, signal.SIGKILL)
        # From the exit to the remedy lie some milliseconds: the stops fall before, into and after them.
        for node in rng.sample(nodes, rng.randint(1, len(nodes) - 1)):
            time.sleep(rng.uniform(0, 0.006))
            node.process.send_signal(signal.SIGSTOP)
            stops += 1
        if number % LONG == 0:
            # Until another node did: if it was the one with leave that was stopped, until that has ended.
            until("somebody restarted it", lambda: len(lines(base)) > before)
        else:
            time.sleep(rng.uniform(0, 0.3))
        for node in nodes:
            node.process.send_signal(signal.SIGCONT)
        all_calm(base, nodes, killed)
        started = [line.split(" ") for line in lines(base)[before:]]
        several += len(started) > 1
        hit += sum(newer == "yes" for _, newer, *_ in started)
        for who, *_ in started:
            by[who] = by.get(who, 0) + 1
        if number % 100 == 99:
            print(f"{number + 1} races, {several} with more than one restart", file=sys.stderr)
    took = time.monotonic() - began
    sums = {name: sum(node.metric(name) for node in nodes) for name in WINDOW}
    window = sums[WINDOW[0]] / max(sums[WINDOW[1]], 1) * 1e6
    extra = len(lines(base)) - 1 - RACES
    print("| nodes | races | stops | restarts beyond one a death | a newer life was hit | mean window from re-check to act | took |")
    print("|---|---|---|---|---|---|---|")
    print(f"| {len(nodes)} | {RACES} | {stops} | {extra} | {hit} | {window:.0f} µs | {took:.0f} s |")
    print(f"\nRestarts by node: {dict(sorted(by.items()))}; seed {SEED}.")


WINDOW = ("defib_executor_fence_window_seconds_sum", "defib_executor_fence_window_seconds_count")

if __name__ == "__main__":
    # What was started is ended, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    main()
