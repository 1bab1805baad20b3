#!/usr/bin/env python3
"""Measures what can be seen of half-dead subscribers, and of healthy ones that look like them.

    scripts/half-dead.py [--soak SECONDS] [--defib PATH] [--redis-server PATH]

Two network namespaces of its own, joined by a cable: a redis-server in one, in the other the subscribers
(tests/python/subscribers.py) and a defib that watches them. Without --soak: makes one after the other stopped, dark,
orphaned and lost, and prints the table of docs/half-dead.md. With it: lets the healthy ones run for so long, and prints
every verdict that was not `pass` or `unknown`; it exits with 1 if there was one.

Root, nft, ip, redis-server, scripts/python-venv.sh; prometheus-redis-exporter if it is there.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SERVER, CLIENT = "10.78.0.1", "10.78.0.2"
BUSY, QUIET = "can_messages", "quiet"
RATE = 5.0  # messages a second on the busy channel
BODY = "x" * 150

#      name              mode        channel  declared  what is done to it
PEERS = [
    ("healthy",         "loop",      BUSY,    BUSY,     None),
    ("quiet",           "loop",      QUIET,   QUIET,    None),
    ("other-channel",   "loop",      QUIET,   BUSY,     None),
    ("idle-command",    "pair",      BUSY,    BUSY,     None),
    ("asyncio",         "asyncio",   BUSY,    BUSY,     None),
    ("slow-reader",     "slow",      BUSY,    BUSY,     None),
    ("behind",          "behind",    BUSY,    BUSY,     None),
    ("celery",          "celery",    QUIET,   BUSY,     None),
    ("stopped",         "loop",      BUSY,    BUSY,     "stop"),
    ("dark",            "loop",      BUSY,    BUSY,     "dark"),
    ("orphaned",        "loop",      QUIET,   QUIET,    "orphan"),
    ("lost",            "recorder",  BUSY,    BUSY,     "lose"),
]


def run(*words, **more):
    return subprocess.run(words, check=True, text=True, capture_output=True, **more).stdout


class World:
    def __init__(self, arguments):
        self.arguments = arguments
        self.dir = tempfile.mkdtemp(prefix="defib-half-dead-")
        self.spaces = [f"defib-{os.getpid()}-hd{n}" for n in (0, 1)]
        self.children = []
        self.pids = {}
        for space in self.spaces:
            run("ip", "netns", "add", space)
            self.into(space, "ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "wire", "netns", self.spaces[0], "type", "veth", "peer", "name", "wire",
            "netns", self.spaces[1])
        for space, address in zip(self.spaces, (SERVER, CLIENT)):
            self.into(space, "ip", "address", "add", f"{address}/30", "dev", "wire")
            self.into(space, "ip", "link", "set", "wire", "up")
        for hook in ("input", "output"):
            self.into(self.spaces[1], "nft", f"add table inet loss; add chain inet loss {hook} "
                      f"{{ type filter hook {hook} priority 0; }}")

    def into(self, space, *words):
        return run("ip", "netns", "exec", space, *words)

    def start(self, space, name, *words, env=None):
        log = open(f"{self.dir}/{name}.log", "w")
        child = subprocess.Popen(["ip", "netns", "exec", space, *words], stdout=log, stderr=log,
                                 stdin=subprocess.DEVNULL, env=env)
        self.children.append(child)
        return child

    def end(self):
        for child in reversed(self.children):
            try:
                os.kill(child.pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
            child.kill()
            child.wait()
        for space in self.spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)
        if self.arguments.keep:
            print(f"kept: {self.dir}", file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def redis(self, *words):
        """One command, from the server's side; its reply in RESP2, parsed."""
        return self.into(self.spaces[0], "redis-cli", "--no-raw", "-h", SERVER, *words)

    # --- the parts

    def server(self):
        self.start(self.spaces[0], "redis", self.arguments.redis_server, "--bind", SERVER, "--port", "6379",
                   "--save", "", "--protected-mode", "no", "--dir", self.dir)
        for _ in range(200):
            try:
                if "PONG" in self.redis("PING"):
                    break
            except subprocess.CalledProcessError:
                pass
            time.sleep(0.05)
        code = (f"import redis,time\nr=redis.Redis(host='{SERVER}')\n"
                f"while True:\n r.publish('{BUSY}','{BODY}'); time.sleep({1 / RATE})\n")
        self.start(self.spaces[0], "publisher", self.python(), "-c", code)
        if shutil.which("prometheus-redis-exporter"):
            self.start(self.spaces[0], "exporter", "prometheus-redis-exporter", "-redis.addr", f"redis://{SERVER}:6379",
                       "-export-client-list", "-export-client-port", "-web.listen-address", f"{SERVER}:9121")

    def python(self):
        return f"{ROOT}/target/test-venv/bin/python"

    def subscribers(self):
        for name, mode, channel, _, _ in PEERS:
            words = [self.python(), f"{ROOT}/tests/python/subscribers.py", mode, SERVER, "6379", channel]
            env = {**os.environ, "REDIS_URL": f"redis://{SERVER}:6379/1"}
            if mode == "celery":
                words = [self.python(), "-m", "celery", "--workdir", f"{ROOT}/tests/python", "-A", "celery_app", "worker", "--loglevel", "info",
                         "--pool", "solo"]
            child = self.start(self.spaces[1], name, *words, env=env)
            self.pids[name] = child.pid
            with open(f"{self.dir}/{name}.pid", "w") as file:
                file.write(str(child.pid))
        for name, *_ in PEERS:
            until(f"{name} is subscribed", lambda: any(
                word in open(f"{self.dir}/{name}.log").read() for word in ("subscribed", " ready.")))

    def defib(self):
        text = f'group = "half-dead"\nnode = "n"\ndry_run = true\n[bus]\nurl = "redis://{SERVER}:6379"\nsettle = "2s"\n'
        text += '[http]\nlisten = "127.0.0.1:7337"\n'
        for name, _, _, declared, _ in PEERS:
            text += (f'[peer.{name}]\nowner = {{ pid_file = "{self.dir}/{name}.pid" }}\nremedies = [{{ do = "log" }}]\n'
                     f'[peer.{name}.checks]\nprocess = {{ decides = "nothing" }}\n'
                     f'subscription = {{ channels = ["{declared}"] }}\n')
        path = f"{self.dir}/defib.toml"
        with open(path, "w") as file:
            file.write(text)
        env = {**os.environ, "STATE_DIRECTORY": self.dir, "RUNTIME_DIRECTORY": self.dir, "NO_COLOR": "1"}
        self.start(self.spaces[1], "defib", self.arguments.defib, "run", "--config", path, env=env)
        until("defib answers", lambda: os.path.exists(f"{self.dir}/admin.sock"))
        until("every peer is alive", lambda: all(
            peer["liveness"] == "alive" for peer in self.status().values()), 60, self.show_defib)

    def show_defib(self):
        print(json.dumps(self.status(), indent=1)[:4000], open(f"{self.dir}/defib.log").read()[-4000:], file=sys.stderr)

    def status(self):
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(5)
        stream.connect(f"{self.dir}/admin.sock")
        stream.sendall(b"GET /api/v1/status HTTP/1.0\r\nHost: x\r\n\r\n")
        text = b""
        while part := stream.recv(65536):
            text += part
        snapshot = json.loads(text.split(b"\r\n\r\n", 1)[1])["snapshot"]
        return {peer["name"]: peer for peer in snapshot["peers"]}

    def verdict(self, name):
        """Liveness of the peer, the outcome of its `subscription` check and what it says."""
        peer = self.status()[name]
        check = next(check for check in peer["checks"] if check["name"] == "subscription")
        return peer["liveness"], check

    # --- what others say

    def sockets(self, pid):
        """The process's connections to Redis, as `ss -ti` shows them."""
        found = []
        text = self.into(self.spaces[1], "ss", "-H", "-t", "-n", "-i", "-p", "dst", f"{SERVER}:6379")
        for line in re.sub(r"\n\s+", " ", text).splitlines():
            if f"pid={pid}," in line:
                words = line.split()
                silent = re.search(r"lastrcv:(\d+)", line)
                found.append({"state": words[0], "recv_q": int(words[1]), "local": words[3],
                              "silent_s": int(silent[1]) / 1000 if silent else None})
        return found

    def clients(self, addresses):
        lines = [dict(field.split("=", 1) for field in line.split(" "))
                 for line in self.into(self.spaces[0], "redis-cli", "-h", SERVER, "CLIENT", "LIST").splitlines() if line]
        return [line for line in lines if line["addr"] in addresses]

    def exporter(self, addresses):
        """Whatever of the exporter's series names one of these connections."""
        if not shutil.which("prometheus-redis-exporter"):
            return None
        text = self.into(self.spaces[0], self.python(), "-c",
                         f"import urllib.request as u;print(u.urlopen('http://{SERVER}:9121/metrics').read().decode())")
        lines = text.splitlines()
        ports = {address.rsplit(":", 1)[1] for address in addresses}
        named = [line for line in lines if any(f'port="{port}"' in line for port in ports)]
        return {"series": named, "at": time.time()}

    def numsub(self, channel):
        return int(self.redis("PUBSUB", "NUMSUB", channel).split("(integer)")[1])

    def publish(self, channel):
        """Receivers that PUBLISH counts."""
        return int(self.redis("PUBLISH", channel, BODY).split("(integer)")[1])

    # --- faults

    def fault(self, name, what):
        pid = self.pids[name]
        subscribed = self.subscriber_of(pid)
        if what == "stop":
            os.kill(pid, signal.SIGSTOP)
        elif what == "lose":
            os.kill(pid, signal.SIGUSR1)
        else:
            port = subscribed["addr"].rsplit(":", 1)[1]
            self.into(self.spaces[1], "nft", f"add rule inet loss input tcp sport 6379 tcp dport {port} drop")
            self.into(self.spaces[1], "nft", f"add rule inet loss output tcp sport {port} tcp dport 6379 drop")
            if what == "orphan":
                self.redis("CLIENT", "KILL", "ID", subscribed["id"])

    def subscriber_of(self, pid):
        rows = self.clients({sock["local"] for sock in self.sockets(pid)})
        return next(row for row in rows if int(row["sub"]) > 0)


def until(what, is_so, patience=30.0, otherwise=None):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if is_so():
            return
        time.sleep(0.05)
    if otherwise:
        otherwise()
    raise SystemExit(f"waited in vain until {what}")


def measure(world):
    rows = []
    for name, mode, channel, _, fault in PEERS:
        pid = world.pids[name]
        addresses = {sock["local"] for sock in world.sockets(pid)}
        before, counted = world.numsub(channel), world.publish(channel)
        began = time.monotonic()
        after = None
        if fault:
            world.fault(name, fault)
            until(f"{name} is condemned", lambda: world.verdict(name)[0] == "dead", 90, world.show_defib)
            after = time.monotonic() - began
        else:
            time.sleep(3)
        sockets, clients = world.sockets(pid), world.clients(addresses)
        liveness, check = world.verdict(name)
        rows.append({
            "name": name, "numsub": (before, world.numsub(channel)),
            "publish": (counted, world.publish(channel)), "clients": clients, "sockets": sockets,
            "exporter": world.exporter(addresses), "liveness": liveness, "check": check, "after": after,
        })
        print(f"{name}: {liveness} after {after and round(after, 1)} s: {check.get('detail') or check}", file=sys.stderr)
    return rows


def table(rows):
    def listed(row):
        meant = [c for c in row["clients"] if int(c["sub"]) + int(c["psub"]) > 0] or row["clients"]
        parts = [f"`sub={c['sub']} psub={c['psub']} idle={c['idle']} oll={c['oll']} omem={c['omem']}`" for c in meant[:2]]
        return "; ".join(parts) + ("; …" if meant[2:] else "") or "not listed"

    def exported(row):
        if row["exporter"] is None:
            return "not installed"
        idle = [re.search(r'idle_since="(\d+)"', line) for line in row["exporter"]["series"]]
        ages = sorted(int(row["exporter"]["at"] - int(match[1])) for match in idle if match)
        return "no series" if not ages else "connected, `idle_since` " + ", ".join(f"{age} s" for age in ages[:2]) + " ago"

    def kernel(row):
        parts = [f"{s['state']}, Recv-Q {s['recv_q']}, nothing for {s['silent_s']:.1f} s" for s in row["sockets"]]
        return "; ".join(parts[:2]) + ("; …" if parts[2:] else "") or "no connection"

    print("| connection | PUBLISH counts | NUMSUB | CLIENT LIST | redis-exporter | kernel | defib | after |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        said = row["check"]["detail"].split(" (")[0] if row["liveness"] == "dead" else "nothing"
        after = f"{row['after']:.1f} s" if row["after"] else ""
        counted, numsub = (f"{before} → {now}" for before, now in (row["publish"], row["numsub"]))
        print(f"| {row['name']} | {counted} | {numsub} | {listed(row)} | {exported(row)} | {kernel(row)} | "
              f"{row['liveness']}; says {said} | {after} |")


def soak(world, seconds):
    """Watches every verdict for so long; False if one was wrong."""
    bad, looks, seen, wrong = [], 0, {}, set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, peer in world.status().items():
            check = next(check for check in peer["checks"] if check["name"] == "subscription")
            looks += 1
            key = (name, peer["liveness"])
            seen[key] = seen.get(key, 0) + 1
            if peer["liveness"] in ("suspect", "dead") or check["verdict"] in ("suspect", "dead"):
                bad.append((round(seconds - (end - time.monotonic())), name, peer["liveness"], check))
                if name not in wrong:
                    print("FALSE VERDICT", bad[-1], file=sys.stderr, flush=True)
                wrong.add(name)
            else:
                wrong.discard(name)
        time.sleep(1)
    log = open(f"{world.dir}/defib.log").read()
    print(f"{seconds} s, {looks} looks: {len(bad)} false verdicts; seen: "
          + ", ".join(f"{name} {liveness} {count}" for (name, liveness), count in sorted(seen.items())))
    metrics = world.into(world.spaces[1], world.python(), "-c",
                         "import urllib.request as u;print(u.urlopen('http://127.0.0.1:7337/metrics').read().decode())")
    print("\n".join(line for line in metrics.splitlines()
                    if line.startswith(("defib_check_runs_total{kind=\"subscription\"", "defib_subscription"))))
    print("\n".join(line for line in log.splitlines() if "WARN" in line or "ERROR" in line))
    return not bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    parser.add_argument("--defib", default=f"{ROOT}/target/debug/defib")
    parser.add_argument("--redis-server", default="redis-server")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    world = World(arguments)
    try:
        world.server()
        world.subscribers()
        world.defib()
        if arguments.soak:
            return 0 if soak(world, arguments.soak) else 1
        table(measure(world))
        return 0
    finally:
        world.end()


if __name__ == "__main__":
    sys.exit(main())
