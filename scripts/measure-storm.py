#!/usr/bin/env python3
"""Measures what stands under "The storm" in docs/measurements.md: how often something is restarted that turns unhealthy
ten seconds after each start, by defib and by others; and what becomes of defib when the Docker API fails.

The Docker API is a small one of this script's own, with one container; each node has a socket of its own, so that it is
seen who asks. Others that know no containers watch a process with the same fault.

    scripts/measure-storm.py storm     all at once, for SECONDS=600
    scripts/measure-storm.py faults    the API fails while three nodes watch; about two minutes
    DEFIB=target/release/defib         the binary
    MONIT=0, SUPERVISOR=0              without these: monit is Debian's, supervisor and superlance come from PyPI
"""

import datetime
import http.server
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = float(os.environ.get("SECONDS", "600"))
DEFIB = os.environ.get("DEFIB", str(ROOT / "target/debug/defib"))
# What docker-autoheal looks at by default, too: every 5 s.
CYCLE = 5
WELL_FOR = 10
HEALTH_EVERY = 1
STOPS_IN = 0.3
ID = "5701" * 16


def now_rfc3339():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


class Docker:
    """The part of the Engine API that concerns one container."""

    def __init__(self, relapses=True):
        self.relapses, self.lock, self.restarting = relapses, threading.Condition(), threading.Lock()
        self.events, self.asked, self.mode = [], [], "well"
        self.started, self.began, self.lives = now_rfc3339(), time.monotonic(), 1
        self.servers = []

    def health(self):
        age = time.monotonic() - self.began
        if age < HEALTH_EVERY:
            return "starting"
        ill = age >= WELL_FOR and (self.relapses or self.lives == 1)
        return "unhealthy" if ill else "healthy"

    def inspected(self):
        log = [{"ExitCode": 1, "Output": "unhealthy since a while"}]
        return {
            "Id": ID,
            "Name": "/app",
            "State": {
                "Status": "running",
                "Running": True,
                "Pid": 0,
                "ExitCode": 0,
                "StartedAt": self.started,
                "FinishedAt": "0001-01-01T00:00:00Z",
                "Health": {"Status": self.health(), "FailingStreak": 0, "Log": log},
            },
            "Config": {"Labels": {}, "StopTimeout": 10},
            "HostConfig": {"NetworkMode": "bridge", "RestartPolicy": {"Name": "unless-stopped"}},
        }

    def tell(self, action, **attributes):
        nanos = time.time_ns()
        event = {"Type": "container", "Action": action, "time": nanos // 10**9, "timeNano": nanos}
        event["Actor"] = {"ID": ID, "Attributes": {"name": "app", **attributes}}
        with self.lock:
            self.events.append(event)
            self.lock.notify_all()

    def restart(self, who):
        """As Docker does, one after the other."""
        busy = self.restarting.locked()
        with self.restarting:
            self.asked.append((time.monotonic(), who, busy))
            self.tell("kill", signal="15")
            time.sleep(STOPS_IN)
            self.tell("die", exitCode="143")
            self.tell("stop")
            self.started, self.began = now_rfc3339(), time.monotonic()
            self.lives += 1
            self.tell("start")
            self.tell("restart")

    def watch_health(self, ended):
        last = self.health()
        while not ended.wait(0.1):
            if self.health() != last and last != (last := self.health()):
                self.tell(f"health_status: {last}")

    def listen(self, path):
        """One more socket; who connects to it is known by its name."""
        docker, who = self, Path(path).stem

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status, body=None):
                text = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if status != 204:
                    self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def fails(self, acting):
                mode = docker.mode
                if mode == "well" or (mode.endswith(" the restart") and not acting):
                    return False
                if acting:
                    docker.asked.append((time.monotonic(), who, False))
                if mode.startswith("hangs"):
                    # As long as that lasts; then the connection is of no use.
                    while docker.mode == mode:
                        time.sleep(0.1)
                    self.close_connection = True
                elif mode.startswith("says done"):
                    self.answer(204)
                elif mode.startswith("500"):
                    self.answer(500, {"message": "out of order"})
                elif mode.startswith("garbage"):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"Id\": \x00\xff")
                    self.close_connection = True
                else:
                    self.close_connection = True
                return True

            def do_GET(self):
                path = re.sub(r"^/v[0-9.]+", "", urllib.parse.urlparse(self.path).path)
                if self.fails(False):
                    return
                if path == "/version":
                    self.answer(200, {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10.24"})
                elif path == "/_ping":
                    self.answer(200, "OK")
                elif path == "/containers/json":
                    listed = {"Id": ID, "Names": ["/app"], "State": "running", "Labels": {}}
                    self.answer(200, [listed | {"HostConfig": {"NetworkMode": "bridge"}}])
                elif re.fullmatch(rf"/containers/(app|{ID})/json", path):
                    self.answer(200, docker.inspected())
                elif path == "/events":
                    self.stream()
                else:
                    self.answer(404, {"message": f"no such container: {path}"})

            def stream(self):
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                told = len(docker.events)
                while docker.mode == "well" or docker.mode.endswith(" the restart"):
                    with docker.lock:
                        docker.lock.wait(0.5)
                        new, told = docker.events[told:], len(docker.events)
                    for event in new:
                        line = json.dumps(event).encode() + b"\n"
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.close_connection = True

            def do_POST(self):
                path = re.sub(r"^/v[0-9.]+", "", urllib.parse.urlparse(self.path).path)
                if self.fails(True):
                    return
                if re.fullmatch(rf"/containers/(app|{ID})/restart", path):
                    docker.restart(who)
                    self.answer(204)
                else:
                    self.answer(404, {"message": f"not here: {path}"})

            def handle(self):
                try:
                    super().handle()
                except OSError:
                    pass

            def log_message(self, *_):
                pass

            def address_string(self):
                return "unix"

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            request_queue_size = 64

        server = Server(path, Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        self.servers.append((path, server))

    def vanish(self):
        self.mode = "gone"
        for path, server in self.servers:
            server.shutdown()
            server.server_close()
            os.unlink(path)

    def come_back(self):
        paths, self.servers = [path for path, _ in self.servers], []
        self.mode = "well"
        for path in paths:
            self.listen(path)


APP = """
import http.server, os, sys, time
starts, port, began = sys.argv[1], int(sys.argv[2]), time.monotonic()
with open(starts, "a") as file:
    file.write(f"{time.time()}\\n")
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if time.monotonic() - began < %d else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_HEAD = do_GET
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
Server(("127.0.0.1", port), Health).serve_forever()
""" % WELL_FOR


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Twin:
    """A process with the same fault, and how it is started and stopped."""

    def __init__(self, folder, name):
        self.folder = Path(folder) / name
        self.folder.mkdir()
        self.port, self.name = free_port(), name
        self.starts, self.pid_file = self.folder / "starts", self.folder / "app.pid"
        (self.folder / "app.py").write_text(APP)
        self.words = [sys.executable, str(self.folder / "app.py"), str(self.starts), str(self.port)]
        run = " ".join(self.words)
        self.start = self.script("start", f"setsid {run} >/dev/null 2>&1 </dev/null &\necho $! >{self.pid_file}\n")
        stop = f"kill $(cat {self.pid_file}) 2>/dev/null\nwhile kill -0 $(cat {self.pid_file}) 2>/dev/null; do sleep 0.1; done\n"
        self.stop = self.script("stop", stop)
        self.restart = self.script("restart", f"{self.stop}\n{self.start}\n")

    def script(self, name, text):
        path = self.folder / name
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return path

    def times(self):
        return [float(line) for line in self.starts.read_text().split()] if self.starts.exists() else []

    def end(self):
        subprocess.run([self.stop], check=False, timeout=20)


def defib(folder, name, bus, peer, top=""):
    """A node with the defaults, that has run before: one without a state grants each peer one restart in its first 10 min."""
    own = Path(folder) / name
    own.mkdir()
    port = free_port()
    text = f"""
        node = "{name}"
        group = "storm"
        bus = {{ url = "{bus}" }}
        http = {{ listen = "127.0.0.1:{port}" }}
        {top}
        {peer}
    """
    (own / "defib.toml").write_text(text)
    return own, port


def start(own):
    environment = dict(os.environ, RUNTIME_DIRECTORY=str(own), STATE_DIRECTORY=str(own), NO_COLOR="1")
    log = open(own / "log", "a")
    return subprocess.Popen([DEFIB, "run", "--config", own / "defib.toml"], stderr=log, stdout=log, env=environment)


def has_run_before(owns):
    nodes = [start(own) for own in owns]
    time.sleep(4)
    for node in nodes:
        node.terminate()
    for node in nodes:
        node.wait()


def container(docker, own_socket):
    docker.listen(own_socket)
    return (
        f'docker = {{ host = "unix://{own_socket}", timeout = "2s" }}',
        '[peer.app]\nowner = { container = "app" }\n'
        'checks.docker = { fail_after = "1 of 1" }\nremedies = [{ do = "docker" }]\n',
    )


def redis(folder):
    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, f"redis://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.05)


def trio(folder, label, docker, bus):
    """Three nodes that watch the same container."""
    owns = []
    for number in (1, 2, 3):
        top, peer = container(docker, f"{folder}/{label}-{number}.sock")
        owns.append(defib(folder, f"{label}-{number}", bus, peer, top))
    return owns


def monit(folder, label, cycle, limit):
    twin = Twin(folder, label)
    text = f"""
set daemon {cycle}
set pidfile {twin.folder}/monit.pid
set idfile {twin.folder}/monit.id
set statefile {twin.folder}/monit.state
set log {twin.folder}/monit.log
check process app with pidfile {twin.pid_file}
    start program = "{twin.start}" with timeout 60 seconds
    stop program  = "{twin.stop}"
    if failed host 127.0.0.1 port {twin.port} protocol http and request "/" then restart
    {limit}
"""
    file = twin.folder / "monitrc"
    file.write_text(text)
    file.chmod(0o600)
    subprocess.run([twin.start], check=True)
    return twin, subprocess.Popen(["monit", "-I", "-c", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def supervisor(folder, venv):
    twin = Twin(folder, "supervisor")
    file = twin.folder / "supervisord.conf"
    file.write_text(f"""
[unix_http_server]
file={twin.folder}/supervisor.sock
[supervisord]
logfile={twin.folder}/supervisord.log
pidfile={twin.folder}/supervisord.pid
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{twin.folder}/supervisor.sock
[program:app]
command={" ".join(twin.words)}
[eventlistener:httpok]
command={venv}/bin/httpok -p app http://127.0.0.1:{twin.port}/
events=TICK_5
""")
    words = [venv / "bin/supervisord", "-c", file]
    return twin, subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def with_pypi():
    venv = ROOT / "target" / "storm-venv"
    if not (venv / "bin/httpok").exists():
        subprocess.run(["/usr/bin/python3", "-m", "venv", venv], check=True)
        packages = ["supervisor==4.3.0", "superlance==2.0.0", "setuptools<80"]
        subprocess.run([venv / "bin/pip", "install", "--quiet", *packages], check=True)
    return venv


def row(what, how, times, began):
    """When, in seconds since all began, and how many in the first 92 s, as in the figures that are quoted."""
    ages = [when - began for when in sorted(times)]
    shown = ", ".join(f"{age:.0f}" for age in ages[:12]) + (", …" if len(ages) > 12 else "")
    early = sum(age <= 92 for age in ages)
    print(f"| {what} | {how} | {early} | {len(ages)} | {shown} |", flush=True)


def metric(port, name):
    import urllib.request

    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name)}


def storm():
    ended, processes, twins = threading.Event(), [], []
    # First of all: what is fetched may take longer than what is started before it stays well.
    venv = with_pypi() if os.environ.get("SUPERVISOR") != "0" else None
    with tempfile.TemporaryDirectory() as folder:
        server, bus = redis(folder)
        processes.append(server)
        one, three = Docker(), Docker()
        top, peer = container(one, f"{folder}/one.sock")
        single = defib(folder, "one", "embedded", peer, top)
        group = trio(folder, "three", three, bus)
        twin = Twin(folder, "process")
        peer = f'[peer.app]\nowner = {{ pid_file = "{twin.pid_file}" }}\n'
        peer += f'checks.http = {{ url = "http://127.0.0.1:{twin.port}/" }}\n'
        peer += f'remedies = [{{ do = "exec", command = ["{twin.restart}"] }}]\n'
        process = defib(folder, "process-node", "embedded", peer)
        nodes = [single, *group, process]
        has_run_before([own for own, _ in nodes])
        try:
            others = []
            if os.environ.get("MONIT") != "0" and shutil.which("monit"):
                limit = "if 3 restarts within 5 cycles then unmonitor"
                others += [("monit, cycle 5 s", *monit(folder, "monit-5", CYCLE, ""))]
                others += [(f"the same, `{limit}`", *monit(folder, "monit-limit", CYCLE, limit))]
                others += [("monit, cycle 120 s (Debian's default)", *monit(folder, "monit-120", 120, limit))]
            if venv:
                others += [("supervisord with superlance's httpok, TICK_5", *supervisor(folder, venv))]
            subprocess.run([twin.start], check=True)
            twins = [twin, *(one for _, one, _ in others)]
            processes += [process for _, _, process in others]
            for docker in (one, three):
                docker.began, docker.started, docker.asked = time.monotonic(), now_rfc3339(), []
                threading.Thread(target=docker.watch_health, args=(ended,), daemon=True).start()
            processes += [start(own) for own, _ in nodes]
            began, wall = time.monotonic(), time.time()
            while time.monotonic() - began < SECONDS:
                time.sleep(1)
                gone = [process.args for process in processes if process.poll() is not None]
                if gone:
                    sys.exit(f"ended: {gone}")
            print(f"{SECONDS:.0f} s; load average {open('/proc/loadavg').read().split()[0]} at the end.\n")
            print("| who | what is watched | restarts in 92 s | in all | when, s |\n|---|---|---|---|---|")
            row("defib, one node", "container", [when for when, _, _ in one.asked], began)
            row("defib, three nodes", "container", [when for when, _, _ in three.asked], began)
            again = lambda twin: twin.times()[1:]
            row("defib, one node", "process", again(twin), wall)
            for what, other, _ in others:
                row(what, "process", again(other), wall)
            by = {name: sum(who == name for _, who, _ in three.asked) for name in sorted({who for _, who, _ in three.asked})}
            print(f"\nOf the three: {by}; asked for while another one was under way: {sum(busy for *_, busy in three.asked)}.")
            for (_, port), what in zip(nodes, ("one", "three-1", "three-2", "three-3", "process")):
                refused = {key.split('"')[1]: int(value) for key, value in metric(port, "defib_guard_refusals_total").items() if value}
                gave_up = sum(metric(port, "defib_gave_up").values())
                print(f"{what}: gave up {gave_up:.0f}; refusals {refused}")
        finally:
            ended.set()
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            for twin in twins:
                if twin.pid_file.exists():
                    twin.end()


FAULTS = [
    "well",
    "gone",
    "closes",
    "hangs",
    "500",
    "garbage",
    "hangs at the restart",
    "500 at the restart",
    "says done at the restart",
    "closes at the restart",
]


def faults():
    """From 2 s before the container turns unhealthy, for 40 s. It is ill once, until it is restarted."""
    ended, processes = threading.Event(), []
    with tempfile.TemporaryDirectory() as folder:
        cases = []
        try:
            for number, fault in enumerate(FAULTS):
                server, bus = redis(folder)
                processes.append(server)
                docker = Docker(relapses=False)
                cases.append((fault, docker, trio(folder, f"fault{number}", docker, bus)))
            has_run_before([own for _, _, nodes in cases for own, _ in nodes])
            for _, docker, _ in cases:
                # Ill only once everything has settled.
                docker.began, docker.started = time.monotonic() + 65, now_rfc3339()
                threading.Thread(target=docker.watch_health, args=(ended,), daemon=True).start()
            nodes = {own: start(own) for _, _, nodes in cases for own, _ in nodes}
            processes += nodes.values()
            ill = cases[0][1].began + WELL_FOR
            time.sleep(ill - time.monotonic() - 2)
            for fault, docker, _ in cases:
                if fault == "gone":
                    docker.vanish()
                else:
                    docker.mode = fault
            time.sleep(42)
            during = {fault: len(docker.asked) for fault, docker, _ in cases}
            alive = {fault: codes(owns) for fault, _, owns in cases}
            for fault, docker, _ in cases:
                docker.come_back() if fault == "gone" else setattr(docker, "mode", "well")
            back = time.monotonic()
            time.sleep(90)
            print(f"Load average {open('/proc/loadavg').read().split()[0]} at the end.\n")
            print(
                "| the API | restarts asked for meanwhile | `/livez`, `/healthz/app`, `/readyz/app` meanwhile | asked for "
                "after it is back, s | nodes that ended | nodes that gave up | well again |\n" + "|---" * 7 + "|"
            )
            for fault, docker, owns in cases:
                after = [f"{when - back:.0f}" for when, *_ in docker.asked[during[fault]:]]
                over = sum(nodes[own].poll() is not None for own, _ in owns)
                what = fault if fault != "well" else "works"
                gave_up = sum(sum(metric(port, "defib_gave_up").values()) > 0 for _, port in owns)
                well = "yes" if docker.lives > 1 and docker.health() == "healthy" else "**no**"
                print(f"| {what} | {during[fault]} | {alive[fault]} | {', '.join(after) or '-'} | {over} | {gave_up} | {well} |")
        finally:
            ended.set()
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait()


def codes(nodes):
    import urllib.request
    import urllib.error

    seen = set()
    for _, port in nodes:
        for path in ("/livez", "/healthz/app", "/readyz/app"):
            try:
                seen.add(urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20).status)
            except urllib.error.HTTPError as error:
                seen.add(error.code)
    return ", ".join(map(str, sorted(seen)))


signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
{"storm": storm, "faults": faults}[sys.argv[1] if len(sys.argv) > 1 else "storm"]()
