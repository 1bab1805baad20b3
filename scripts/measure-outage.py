#!/usr/bin/env python3
"""Measures what stands under "Outage drill" in docs/measurements.md: many real nodes in one group on one real
redis-server, which is stopped, killed, shut down and demoted under them.

Each node watches a process of its own, with a remedy that would act, and by their heartbeats the next three nodes, with
remedies that would act and `single_observer`. On every tenth node the process also has a health endpoint that fails
while Redis does not answer (livekit#4663). What acts leaves a line in a file, so that remedies are counted outside of
what they report. In the end one process and one node are killed, to show that the remedies do act.

    NODES=200                       how many
    DRILLS="stop:1 stop:420 ..."    what is done to Redis, one after the other: stop (SIGSTOP), kill (SIGKILL), down
                                    (SHUTDOWN), demote (REPLICAOF another server), and for how many seconds
    DEFIB=target/release/defib      the binary

Counting the attempts at connections (SYN packets) needs root. Exit status 1 if anything was healed, blamed, or
answered a probe by anything but 200; or if nothing acts in the end.
"""

import asyncio
import collections
import ctypes
import http.server
import json
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

NODES = int(os.environ.get("NODES", "200"))
DRILLS = os.environ.get("DRILLS", "stop:1 stop:420 kill:0 down:60 demote:60").split()
DEFIB = os.environ.get("DEFIB", "target/debug/defib")
SETTLE = float(os.environ.get("SETTLE", "60"))
PROBE_EVERY = 5
WATCHED = 3
FRAGILE = 10
# In the place of a status.
NONE = "none"
SO_ATTACH_FILTER = 26
PACKET_OUTGOING = 4
# Below the range from which the kernel takes ports for outgoing connections.
FIRST_PORT = 20_000 + os.getpid() % 5000
REDIS, OTHER, HEALTH = FIRST_PORT - 1, FIRST_PORT - 2, FIRST_PORT - 3


def name(index):
    return f"n{index % NODES:03}"


class Server:
    """A redis-server of its own."""

    def __init__(self, folder, port):
        self.port, self.socket = port, f"{folder}/{port}.sock"
        self.words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        self.words += ["--unixsocket", self.socket, "--protected-mode", "no"]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.words, stdout=subprocess.DEVNULL)
        while not self.answers(1):
            if self.process.poll() is not None:
                sys.exit(f"redis-server on port {self.port} has ended: {self.process.returncode}")
            time.sleep(0.02)

    def tell(self, words, within=5.0):
        """Not over TCP: those connections are counted."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(within)
            stream.connect(self.socket)
            stream.sendall(words.encode() + b"\r\n")
            return stream.recv(65536)

    def answers(self, within):
        try:
            return self.tell("PING", within) == b"+PONG\r\n"
        except OSError:
            return False


class Syns(threading.Thread):
    """Attempts at a connection with a port, as the kernel sends them: (when, from which port)."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.seen = []
        # IPv4, TCP, no later fragment, to that port, SYN without ACK.
        program = [
            (0x30, 0, 0, 9), (0x15, 0, 8, 6), (0x28, 0, 0, 6), (0x45, 6, 0, 0x1FFF), (0xB1, 0, 0, 0),
            (0x48, 0, 0, 2), (0x15, 0, 3, port), (0x50, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 1, 0, 2),
            (0x06, 0, 0, 0), (0x06, 0, 0, 64),
        ]  # fmt: skip
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        code = b"".join(struct.pack("HBBI", *line) for line in program)
        self.code = ctypes.create_string_buffer(code)
        attach_filter = struct.pack("HL", len(program), ctypes.addressof(self.code))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attach_filter)
        self.socket.bind(("lo", 0x0800))

    def run(self):
        while True:
            packet, (_, _, kind, *_) = self.socket.recvfrom(64)
            # What goes out comes in, on the loopback.
            if kind != PACKET_OUTGOING:
                at = 4 * (packet[0] & 15)
                self.seen.append((time.monotonic(), struct.unpack_from("!H", packet, at)[0]))

    def between(self, since, until):
        """The first packet of each attempt; those that were sent again do not count."""
        ports, found = {}, []
        for when, port in list(self.seen):
            again = when - ports.get(port, -100) < 10
            ports[port] = when
            if since <= when < until and not again:
                found.append(when)
        return found


class Node:
    """One defib with a process to watch."""

    def __init__(self, folder, index, acts):
        self.name, self.port, self.folder = name(index), FIRST_PORT + index, os.path.join(folder, name(index))
        os.mkdir(self.folder)
        self.app = subprocess.Popen(["sleep", "infinity"])
        act = lambda of: f'[{{ do = "exec", command = ["sh", "-c", "echo {self.name} {of} >>{acts}"] }}]'
        fragile = index % FRAGILE == 0
        health = f'checks.health = {{ type = "http", url = "http://127.0.0.1:{HEALTH}/health" }}' if fragile else ""
        text = f"""
            node = "{self.name}"
            group = "drill"
            bus = {{ url = "redis://127.0.0.1:{REDIS}", settle = "{SETTLE}s" }}
            http = {{ listen = "127.0.0.1:{self.port}" }}
            [peer.app]
            owner = {{ pid = {self.app.pid} }}
            {health}
            remedies = {act("app")}
        """
        for other in range(index + 1, index + 1 + WATCHED):
            text += f"""
            [peer.{name(other)}]
            single_observer = true
            checks.heartbeat = {{ node = "{name(other)}" }}
            remedies = {act(name(other))}
            """
        with open(os.path.join(self.folder, "defib.toml"), "w") as file:
            file.write(text)
        self.probed = ["/livez", "/healthz", "/healthz/app", "/readyz/app", f"/readyz/{name(index + 1)}"]
        self.bus, self.liveness, self.events, self.failed, self.probes = None, {}, [], [], 0
        self.changed_at = 0.0

    def start(self):
        environment = dict(os.environ, RUNTIME_DIRECTORY=self.folder, STATE_DIRECTORY=self.folder, NO_COLOR="1")
        with open(os.path.join(self.folder, "log"), "w") as log:
            words = [DEFIB, "run", "--config", os.path.join(self.folder, "defib.toml")]
            self.process = subprocess.Popen(words, stderr=log, stdout=log, env=environment)

    async def get(self, *paths):
        """Status and body of each."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            answers = []
            for path in paths:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(re.search(r"(?i)content-length: (\d+)", head)[1])
                answers.append((int(head.split()[1]), await reader.readexactly(length)))
            return answers
        finally:
            writer.close()

    async def status(self):
        [(_, body)] = await self.get("/api/v1/status")
        return json.loads(body)["snapshot"]

    async def look(self):
        """What it holds for true now."""
        snapshot = await self.status()
        if snapshot:
            self.bus = snapshot["trust"]["bus"]
            self.liveness = {peer["name"]: peer["liveness"] for peer in snapshot["peers"]}

    async def lost(self):
        """Connections with Redis that it gave up, by reason."""
        [(_, page)] = await self.get("/metrics")
        found = re.findall(r'^defib_bus_lost_total\{.*reason="(\w+)".*\} (\d+)', page.decode(), re.M)
        return sum_of(found)

    async def follow(self):
        """Every event as it happens."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        writer.write(b"GET /api/v1/events HTTP/1.0\r\nHost: x\r\n\r\n")
        while line := await reader.readline():
            if not line.startswith(b"data:"):
                continue
            event = json.loads(line[5:])
            now = time.monotonic()
            self.events.append((now, event))
            if event["event"] == "bus":
                self.bus, self.changed_at = event["state"], now
            elif event["event"] == "liveness":
                self.liveness[event["peer"]], self.changed_at = event["to"], now
        if self.process.poll() is None:
            sys.exit(f"{self.name} does not tell its events any more")

    async def probe(self, index):
        """As a kubelet does; anything but 200 is written down."""
        await asyncio.sleep(PROBE_EVERY * index / NODES)
        while self.process.poll() is None:
            try:
                answers = await asyncio.wait_for(self.get(*self.probed), 30)
                self.probes += len(answers)
                bad = [(path, code) for path, (code, _) in zip(self.probed, answers) if code != 200]
            except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
                bad = [(repr(error), NONE)]
            if self.process.poll() is None:
                self.failed += [(time.monotonic(), *one) for one in bad]
            await asyncio.sleep(PROBE_EVERY)

    def is_whole(self):
        return self.bus == "trusted" and set(self.liveness.values()) == {"alive"}


def health_endpoint(server):
    """Its health is whether Redis answers: what brought the six nodes of livekit#4663 down."""
    healthy = [True]

    def ask():
        while True:
            healthy[0] = server.answers(0.5)
            time.sleep(0.5)

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if healthy[0] else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    class Serving(http.server.ThreadingHTTPServer):
        request_queue_size = 256

    threading.Thread(target=ask, daemon=True).start()
    threading.Thread(target=Serving(("127.0.0.1", HEALTH), Health).serve_forever, daemon=True).start()


async def until(what, is_so, within=600):
    end = time.monotonic() + within
    while not is_so():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.05)
    return True


async def away(server, other, kind, seconds):
    """Does that to Redis; returns when it was done, and when it was undone."""
    began = time.monotonic()
    if kind == "stop":
        server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        server.process.send_signal(signal.SIGCONT)
    elif kind in ("kill", "down"):
        server.process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        await asyncio.to_thread(server.process.wait)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.start)
    elif kind == "demote":
        server.tell(f"REPLICAOF 127.0.0.1 {other.port}")
        await asyncio.sleep(seconds)
        server.tell("REPLICAOF NO ONE")
    else:
        sys.exit(f"DRILLS: no {kind!r}; there are stop, kill, down and demote")
    return began, time.monotonic()


def sum_of(found):
    counted = collections.Counter()
    for reason, number in found:
        counted[reason] += int(number)
    return counted


async def all_lost(nodes):
    return sum(await asyncio.gather(*(node.lost() for node in nodes)), collections.Counter())


def most_within(times, length):
    """Most of the sorted times that lie within so long."""
    first, most = 0, 0
    for last, when in enumerate(times):
        while when - times[first] >= length:
            first += 1
        most = max(most, last - first + 1)
    return most


def lines(path):
    return open(path).read().splitlines() if os.path.exists(path) else []


async def drill(nodes, server, other, syns, acts, what):
    """One row of the table; true if nobody was harmed."""
    kind, seconds = what.split(":")
    before, acted, had_lost = time.monotonic(), len(lines(acts)), await all_lost(nodes)
    began, back = await away(server, other, kind, float(seconds))
    await until("every view is whole", lambda: all(node.is_whole() for node in nodes), 300)
    whole = sorted(max(node.changed_at, back) - back for node in nodes)
    complete = all(node.is_whole() for node in nodes)
    # Whatever would be done after the settling time is done by then.
    await asyncio.sleep(SETTLE + max(5, SETTLE / 4))
    events = [(node, event) for node in nodes for when, event in node.events if when >= before]
    named = lambda kind: [(node, event) for node, event in events if event["event"] == kind]
    flips = collections.Counter(
        ("local" if event["peer"] == "app" else "remote", event["to"]) for _, event in named("liveness")
    )
    granted = len(named("granted"))
    failed = [one for node in nodes for one in node.failed if one[0] >= before]
    blamed = flips["remote", "suspect"] + flips["remote", "dead"]
    distrusted = {node.name for node, event in named("bus") if event["state"] != "trusted"}
    if syns:
        lost = syns.between(began, min(began + 5, back))
        meanwhile = syns.between(began + 5, back)
        after = syns.between(back, back + 60)
        most = lambda tries: f"{most_within(tries, 1.0)}, {most_within(tries, 0.1)}"
        rate = f"{len(meanwhile) / (back - began - 5):.0f}" if back - began > 10 else "-"
        attempts = [most(lost), rate, len(after), most(after)]
    else:
        attempts = ["-"] * 4
    cells = [
        f"{what.replace(':', ' ')} s",
        len(distrusted),
        f"{granted} / {len(lines(acts)) - acted}",
        f"{sum(code != NONE for *_, code in failed)} / {sum(code == NONE for *_, code in failed)}",
        blamed,
        flips["local", "dead"],
        f"{statistics.median(whole):.1f}, {whole[int(0.99 * len(whole))]:.1f}, {whole[-1]:.1f}" if complete else "never",
        *attempts,
    ]
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(f"{what}: connections given up: {dict(await all_lost(nodes) - had_lost)}", file=sys.stderr)
    for node, event in named("granted")[:5]:
        print(f"granted by {node.name}: {event}", file=sys.stderr)
    for when, path, code in failed[:5]:
        print(f"probe failed {when - began:.1f} s after the begin: {path} {code}", file=sys.stderr)
    for node, event in named("liveness"):
        if event["peer"] != "app" and event["to"] in ("suspect", "dead"):
            print(f"{node.name}: {event}", file=sys.stderr)
    refused = any(code != NONE for *_, code in failed)
    return complete and not granted and len(lines(acts)) == acted and not refused and not blamed


async def control(nodes, acts):
    """The remedies do act: for a process, and for a node, that is really gone; and for nobody else. What acted, and whether
    it was so."""
    before = len(lines(acts))
    ended, gone = nodes[0], nodes[-1]
    ended.app.kill()
    ended.app.wait()
    its_own = f"{ended.name} app"
    acted = await until("its remedy acts", lambda: its_own in lines(acts)[before:], 120)
    gone.process.kill()
    gone.process.wait()
    of_it = lambda line: line.endswith(f" {gone.name}")
    acted &= await until("one acts on it", lambda: any(map(of_it, lines(acts)[before:])), 180)
    found = lines(acts)[before:]
    return found, acted and all(line == its_own or of_it(line) for line in found)


async def main():
    harmless = True
    with tempfile.TemporaryDirectory() as folder:
        servers, nodes = [], []
        try:
            for port in (REDIS, OTHER):
                servers.append(Server(folder, port))
            server, other = servers
            syns = Syns(REDIS) if os.geteuid() == 0 else None
            if syns:
                syns.start()
            health_endpoint(server)
            acts = os.path.join(folder, "acts")
            for index in range(NODES):
                nodes.append(Node(folder, index, acts))
            for node in nodes:
                node.start()
                await asyncio.sleep(0.05)
            began = time.monotonic()
            while not all(node.is_whole() for node in nodes):
                if time.monotonic() - began > 300:
                    sys.exit("not every node sees all: " + str([(n.name, n.bus, n.liveness) for n in nodes][:3]))
                await asyncio.sleep(1)
                await asyncio.gather(*(node.look() for node in nodes if not node.is_whole()), return_exceptions=True)
            doing = [asyncio.create_task(node.follow()) for node in nodes]
            doing += [asyncio.create_task(node.probe(index)) for index, node in enumerate(nodes)]
            await asyncio.sleep(SETTLE + 5)
            memory = sorted(resident(node.process.pid) for node in nodes)
            print(f"{NODES} nodes, {DEFIB}, {statistics.median(memory):.1f} MiB resident each (median; most {memory[-1]:.1f}).")
            quiet = [event for node in nodes for _, event in node.events if event["event"] == "liveness"]
            to = dict(collections.Counter(event["to"] for event in quiet))
            print(f"Before any drill, {SETTLE + 5:.0f} s: {len(quiet)} changes of liveness {to or ''}.\n")
            print(
                "| Redis | nodes that noticed | remedies granted / that acted | probes that failed / were not answered | remote peers blamed "
                "| own processes called dead | whole again after, s: median, p99, most | attempts at a connection as it is lost: "
                "most within 1 s, 0.1 s | a second while it is away | in the minute after its return | most of them "
                "within 1 s, 0.1 s |\n" + "|---" * 11 + "|"
            )
            for what in DRILLS:
                harmless &= await drill(nodes, server, other, syns, acts, what)
            probes = sum(node.probes for node in nodes)
            stalls = sum(event["event"] == "stalled" for node in nodes for _, event in node.events)
            print(f"\n{probes} probes were answered; nodes noticed {stalls} pauses of their own over 500 ms.")
            acted, as_meant = await control(nodes, acts)
            harmless &= as_meant
            print(f"Then a process and a node were killed; remedies that acted: {acted}.")
            print(f"Load average at the end: {open('/proc/loadavg').read().split()[0]}.")
            for task in doing:
                task.cancel()
        finally:
            for node in nodes:
                node.app.kill()
                if hasattr(node, "process"):
                    node.process.kill()
            for node in nodes:
                node.app.wait()
                if hasattr(node, "process"):
                    node.process.wait()
            for one in servers:
                one.process.kill()
                one.process.wait()
    sys.exit(not harmless)


def resident(pid):
    status = open(f"/proc/{pid}/status").read()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


# What was started is ended, whoever ends this.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
asyncio.run(main())
