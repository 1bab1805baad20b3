"""kstlib's own watchdog on a heartbeat file: kstlib_watchdog.py PATH MAX_AGE. Prints `alive` once it saw it, and
`timeout` when it fires."""

import sys
import time

from kstlib.resilience.heartbeat import Heartbeat
from kstlib.resilience.watchdog import Watchdog

path, max_age = sys.argv[1], float(sys.argv[2])
while not Heartbeat.is_alive(path, max_age_seconds=max_age):
    time.sleep(0.05)
print("alive", flush=True)
watchdog = Watchdog.from_state_file(
    path, check_interval=1, max_age=max_age, on_timeout=lambda: print("timeout", flush=True)
)
watchdog.start()
while True:
    time.sleep(1)
