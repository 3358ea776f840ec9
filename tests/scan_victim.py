"""A scan that is killed again and again: python scan_victim.py PHOTOS OUT BUNDLE KILLS SEED

Each life is a process of its own, which ends by SIGKILL at a random moment. After KILLS of them one may live to the
end. Prints how many were killed while they worked.
"""

import importlib.util
import os
import random
import signal
import sys
import time
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

from scan_world import DARK, MeanGuard

from safeguard_sdk.scan import Options, decoding, scan

LONGEST_LIFE = 0.25   # seconds
RATE = 100             # images a second, so that no life gets far
SMALL_PARTS = Options(workers=2, part_rows=4, near_duplicates=importlib.util.find_spec("pdqhash") is not None)


def main(photos: str, out: str, bundle: str, kills: int, seed: int) -> int:
    chance, guard = random.Random(seed), MeanGuard(DARK, Path(bundle))
    decoding.prepare_to_start()
    killed = 0
    while killed < kills:
        server = running_server()  # here, and not in each life: a start would take longer than a life
        life = os.fork()
        if not life:
            forkserver._forkserver.ensure_running = lambda: None  # it asks for a child, and the server is the parent's
            decoding.PAUSE_SECONDS = 0  # without a server it ends, and is none that was killed while it worked
            scan(guard, [photos, f"{photos}.zip"], out, replace(SMALL_PARTS, max_rate=RATE, batch_size=3))
            os._exit(0)
        time.sleep(chance.uniform(0.0, LONGEST_LIFE))
        os.kill(life, signal.SIGKILL)
        _, status = os.waitpid(life, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        elif not is_replaced(server):
            sys.exit("a life came to its end before it was killed; give it more to do")
    time.sleep(0.5)  # a server that the last kill hit is gone by then, and is started again
    scan(guard, [photos, f"{photos}.zip"], out, SMALL_PARTS)
    return killed


def is_replaced(server: int) -> bool:
    """Whether another server runs now; one that was hit takes a while to end, and serves nobody any more."""
    deadline = time.monotonic() + 5
    while running_server() == server:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def running_server() -> int:
    """Process id of the server that forks decoders: a life that is killed while it asks for one takes the server with
    it, and whoever asks next fails."""
    forkserver.ensure_running()
    return forkserver._forkserver._forkserver_pid


if __name__ == "__main__":
    print(main(*sys.argv[1:4], *map(int, sys.argv[4:])))
