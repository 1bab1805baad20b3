"""A program as people write it for systemd's watchdog, with the package sdnotify; it knows nothing of defib.

SIGUSR1: its main loop hangs, and nothing else does. SIGTERM: it stops in good order.
"""

import os
import signal
import time

import sdnotify

notifier = sdnotify.SystemdNotifier()
every = int(os.environ["WATCHDOG_USEC"]) / 1e6 / 2
wanted = {signal.SIGUSR1, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)

notifier.notify("READY=1")
notifier.notify("STATUS=at work")
while True:
    notifier.notify("WATCHDOG=1")
    came = signal.sigtimedwait(wanted, every)
    if came is None:
        continue
    if came.si_signo == signal.SIGTERM:
        break
    while True:
        time.sleep(600)
notifier.notify("STATUS=asked to stop\nSTOPPING=1")
