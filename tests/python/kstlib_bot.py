"""A bot with nothing but kstlib's heartbeat file, which goes on in a thread of its own.

kstlib_bot.py PATH: beats each second and counts cycles. SIGUSR1: the loop hangs, and the thread beats on. SIGTERM: says
in the file that it stops, and exits.
"""

import signal
import sys
import time

from kstlib.resilience.heartbeat import Heartbeat

# What a bot's numbers may be: Python writes NaN into JSON.
metadata = {"cycles": 0, "status": "running", "pnl": float("nan")}
heartbeat = Heartbeat(sys.argv[1], interval=1, metadata=metadata)


def hang(*_):
    while True:
        time.sleep(1)


def stop(*_):
    metadata["status"] = "stopped"
    heartbeat.stop()
    heartbeat.beat()
    sys.exit(0)


signal.signal(signal.SIGUSR1, hang)
signal.signal(signal.SIGTERM, stop)
heartbeat.beat()
heartbeat.start()
print("beats", flush=True)
while True:
    metadata["cycles"] += 1
    time.sleep(0.1)
