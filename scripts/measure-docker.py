#!/usr/bin/env python3
"""Measures what stands under "Docker" in docs/measurements.md: from the kill of a container's first process to Docker's
being asked to restart it, and the window between the look at the container and that request, as a proxy before Docker's
socket sees them. Needs root, Docker and busybox. TRIALS=60 for another number; DEFIB=target/release/defib for another binary.
"""
import os, signal, socket, statistics, subprocess, sys, tempfile, threading, time

TRIALS = int(os.environ.get("TRIALS", "60"))
DEFIB = os.environ.get("DEFIB", "target/debug/defib")
NAME = f"defib-measure-{os.getpid()}"
looked, windows, asked = [0.0], [], threading.Event()
asked_at = [0.0]


def docker(*words):
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


def pump(source, sink, seen):
    try:
        while data := source.recv(65536):
            seen(data)
            sink.sendall(data)
    except OSError:
        pass
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(client):
    upstream = socket.socket(socket.AF_UNIX)
    upstream.connect("/var/run/docker.sock")
    kind = [b""]

    def request(data):
        kind[0] = data.split(b"\r\n", 1)[0]
        if b"/restart" in kind[0]:
            asked_at[0] = time.monotonic()
            windows.append(asked_at[0] - looked[0])
            asked.set()

    def response(_):
        if kind[0].startswith(b"GET") and b"/json" in kind[0]:
            looked[0] = time.monotonic()

    threading.Thread(target=pump, args=(client, upstream, request), daemon=True).start()
    threading.Thread(target=pump, args=(upstream, client, response), daemon=True).start()


def row(what, seconds):
    ms = sorted(1000 * s for s in seconds)
    at = lambda share: ms[min(len(ms) - 1, int(share * len(ms)))]
    print(f"| {what} | {len(ms)} | {statistics.median(ms):.1f} | {at(0.9):.1f} | {at(0.99):.1f} | {ms[-1]:.1f} |")


signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
with tempfile.TemporaryDirectory() as folder:
    root = os.path.join(folder, "root")
    os.makedirs(os.path.join(root, "bin"))
    busybox = next(p for p in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(p))
    subprocess.run(["cp", busybox, os.path.join(root, "bin", "busybox")], check=True)
    subprocess.run(["tar", "-C", root, "-cf", os.path.join(folder, "root.tar"), "."], check=True)
    docker("import", os.path.join(folder, "root.tar"), f"{NAME}:bb")
    docker("run", "-d", "--network", "none", "--name", NAME, f"{NAME}:bb", "/bin/busybox", "sleep", "86400")
    listener = socket.socket(socket.AF_UNIX)
    gate = os.path.join(folder, "docker.sock")
    listener.bind(gate)
    listener.listen(64)
    accept = lambda: [serve(listener.accept()[0]) for _ in iter(int, 1)]
    threading.Thread(target=accept, daemon=True).start()
    with open(os.path.join(folder, "defib.toml"), "w") as file:
        file.write(f"""
            node = "measured"
            bus = {{ settle = "0s" }}
            budget = {{ spacing = "0s", down_percent = 100 }}
            http = {{ listen = "127.0.0.1:0", admin_socket = "none" }}
            store = {{ path = "{folder}/state/state.json" }}
            docker = {{ host = "unix://{gate}" }}
            [peer.app]
            owner = {{ container = "{NAME}" }}
            budget = {{ count = 100, window = "1h" }}
            backoff = {{ initial = "100ms", max = "100ms" }}
            remedies = [{{ do = "docker" }}]
        """)
    log = open(os.path.join(folder, "log"), "w")
    environment = dict(os.environ, RUNTIME_DIRECTORY=folder, STATE_DIRECTORY=folder + "/state", NO_COLOR="1")
    run = lambda: subprocess.Popen([DEFIB, "run", "--config", folder + "/defib.toml"], stderr=log, env=environment)
    # A node that finds no state of an earlier run grants one restart in its first ten minutes: this is the earlier run.
    node = run()
    time.sleep(3)
    node.terminate()
    node.wait()
    node = run()
    exits = []
    try:
        time.sleep(3)
        while len(exits) < TRIALS:
            pid = int(docker("inspect", "-f", "{{.State.Pid}}", NAME))
            asked.clear()
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            if not asked.wait(30):
                sys.exit("no restart was asked for:\n" + open(log.name).read()[-3000:])
            exits.append(asked_at[0] - began)
            while not (docker("inspect", "-f", "{{.State.Running}}", NAME) == "true"):
                time.sleep(0.05)
            # Until it has proven itself: who dies before that is given `verify_within`.
            time.sleep(1.5)
    finally:
        node.terminate()
        node.wait()
        docker("rm", "-f", NAME)
        docker("rmi", "-f", f"{NAME}:bb")
    print("| milliseconds | trials | median | p90 | p99 | most |\n|---|---|---|---|---|---|")
    row("from the kill to the request", exits)
    row("from the look to the request", windows)
