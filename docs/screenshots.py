"""Pictures of MLflow's pages for the documentation, taken of a sweep in this folder with headless Chromium.

    python docs/screenshots.py NAME [--root FOLDER] [--out docs]

Writes mlflow_charts.png (all points), mlflow_front.png (the front as a filtered table) and mlflow_sweep.png (the page
of the sweep). Needs ``chromium`` on the path.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from robusweep.errors import MissingError
from robusweep.tracking.store import opened, store_uri
from robusweep.tracking.ui import experiments
from robusweep.tracking.view import links, run_link

START_SECONDS = 180
PAGE_SECONDS = 60  # of the browser's own clock, in which the page's requests are answered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--out", type=Path, default=Path("docs"))
    given = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise MissingError("there is no chromium here", hint="apt-get install chromium")
    port = _free_port()
    known = experiments(given.root)
    if given.name not in known:
        raise MissingError(f"there is no recipe {given.name!r} in MLflow (there are {', '.join(known)})")
    experiment = known[given.name]
    with opened(store_uri(given.root)) as client:
        sweep = client.search_runs([experiment], "tags.`robusweep.kind` = 'sweep'")[0].info.run_id
    address = f"http://127.0.0.1:{port}"
    pages = links(address, experiment)
    wanted = {
        "mlflow_charts": (pages["view"], "1800,1150"),
        "mlflow_front": (pages["table"], "1800,620"),
        "mlflow_sweep": (f"{address}/{run_link(experiment, sweep)}", "1800,1000"),
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "robusweep", "ui", "--root", str(given.root), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(address)
        for name, (url, size) in wanted.items():
            _shoot(browser, url, given.out.resolve() / f"{name}.png", size)
            print(given.out / f"{name}.png")
    finally:
        server.terminate()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(address: str) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def _shoot(browser: str, url: str, path: Path, size: str) -> None:
    with TemporaryDirectory(prefix="robusweep-browser-") as profile:
        options = ["--headless", "--disable-background-networking", "--hide-scrollbars", f"--window-size={size}"]
        options += [] if os.getuid() else ["--no-sandbox"]
        subprocess.run(
            [
                *(browser, *options, f"--user-data-dir={profile}", f"--virtual-time-budget={PAGE_SECONDS * 1000}"),
                *(f"--screenshot={path}", url),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=5 * PAGE_SECONDS,
        )


if __name__ == "__main__":
    main()
