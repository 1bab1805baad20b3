#!/usr/bin/env python3
"""Measures what stands under "Checks" in docs/measurements.md: the processor time of a node with 20 checks a second, and
how long one run of each kind takes, by the node's own metrics. A Redis, a subscriber and a small HTTP server of its own.

SECONDS=60 for another length; DEFIB=target/release/defib for another binary. Run it with target/test-venv/bin/python.
"""
import http.server, os, re, socket, subprocess, sys, tempfile, threading, time, urllib.request

import redis

SECONDS = int(os.environ.get("SECONDS", "60"))
DEFIB = os.environ.get("DEFIB", "target/debug/defib")
COUNTS = {"http": 6, "metric": 4, "connections": 2, "memory": 2, "sockets": 3, "subscription": 3}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Application(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"# TYPE clients gauge\nclients 0\n" if self.path == "/metrics" else b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def subscriber(port):
    code = f"import redis\np = redis.Redis(port={port}).pubsub()\np.subscribe('data')\nfor m in p.listen(): pass"
    return subprocess.Popen([sys.executable, "-c", code])


def publish(client, ended):
    while not ended.wait(0.2):
        client.publish("data", "x" * 150)


def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


processes = []
with tempfile.TemporaryDirectory() as folder:
    port, page = free_port(), free_port()
    server = ["redis-server", "--port", str(port), "--save", "", "--dir", folder]
    processes.append(subprocess.Popen(server, stdout=subprocess.DEVNULL))
    threading.Thread(target=http.server.ThreadingHTTPServer(("127.0.0.1", page), Application).serve_forever, daemon=True).start()
    client = redis.Redis(port=port)
    while True:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    watched = subscriber(port)
    processes.append(watched)
    ended = threading.Event()
    threading.Thread(target=publish, args=(client, ended), daemon=True).start()
    shape = {
        "http": f'{{ type = "http", url = "http://127.0.0.1:{page}/health" }}',
        "metric": f'{{ type = "metric", url = "http://127.0.0.1:{page}/metrics", series = "clients", below = 10 }}',
        "connections": f'{{ type = "connections", url = "http://127.0.0.1:{page}/metrics", series = "clients", ports = [{page}] }}',
        "memory": '{ type = "memory", below = "512MiB" }',
        "sockets": f'{{ type = "sockets", to = ["127.0.0.1:{port}"] }}',
        "subscription": '{ type = "subscription", channels = ["data"] }',
    }
    checks = "\n".join(f"checks.{kind}-{n} = {shape[kind]}" for kind, count in COUNTS.items() for n in range(count))
    listen = free_port()
    with open(f"{folder}/defib.toml", "w") as file:
        file.write(f"""
            node = "measured"
            bus = {{ url = "redis://127.0.0.1:{port}" }}
            http = {{ listen = "127.0.0.1:{listen}", admin_socket = "none" }}
            store = {{ path = "{folder}/state.json" }}
            [peer.app]
            owner = {{ pid = {watched.pid} }}
            {checks}
        """)
    environment = dict(os.environ, RUNTIME_DIRECTORY=folder)
    node = subprocess.Popen([DEFIB, "run", "--config", f"{folder}/defib.toml"], stderr=subprocess.DEVNULL, env=environment)
    processes.append(node)
    try:
        time.sleep(10)
        began, used = time.monotonic(), cpu(node.pid)
        time.sleep(SECONDS)
        share = 100 * (cpu(node.pid) - used) / (time.monotonic() - began)
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{listen}/metrics").read().decode()
    finally:
        ended.set()
        for process in reversed(processes):
            process.terminate()
            process.wait()
    load = open("/proc/loadavg").read().split()[0]
    print(f"{sum(COUNTS.values())} checks a second: {share:.2f} % of a core over {SECONDS} s; load average {load}\n")
    print("| kind | checks | runs | passed | mean, ms |\n|---|---|---|---|---|")
    for kind, count in COUNTS.items():
        value = lambda name: float(re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.M)[1])
        runs = value(f'defib_check_run_duration_seconds_count{{kind="{kind}"}}')
        took = value(f'defib_check_run_duration_seconds_sum{{kind="{kind}"}}')
        passed = value(f'defib_check_runs_total{{kind="{kind}",outcome="pass"}}')
        print(f"| {kind} | {count} | {runs:.0f} | {passed:.0f} | {1000 * took / runs:.2f} |")
