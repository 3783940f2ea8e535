"""JupyterLab in a real browser: the live display moves and ends, and the stop button stops.

Screenshots of what was seen are left in ``out/browser`` below the repository's root.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, sync_playwright
from servers.process import running

import headrace
from headrace.testing.leftovers import processes_with

pytestmark = pytest.mark.chromium

ROOT = Path(headrace.__file__).parent
SCREENSHOTS = ROOT / "out" / "browser"
SECONDS = 120.0
MARK = "HEADRACE_BROWSER_TEST"
OFFLINE = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


ENDLESS = """
import time, headrace

@headrace.task
def toil(i):
    while True:
        with open("at-work", "a") as file:
            file.write(".")
        time.sleep(0.02)

@headrace.flow(executor="processes")
def endless():
    return toil.map(range(10))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[dict[str, str]]:
    """A JupyterLab whose kernels import this headrace."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT.parent), *sys.path]))
        patch.setenv(MARK, str(os.getpid()))
        with running("lab_server") as facts:
            yield facts


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of a browser without a screen."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=OFFLINE
        )
        yield browser.new_page(viewport={"width": 1200, "height": 1500})
        browser.close()


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, f"not within {SECONDS:g} s: {what}"
        time.sleep(0.05)


def opened(page: Page, lab: dict[str, str], name: str, cells: list[str]) -> None:
    """Put a notebook of these cells there, open it, and wait for its kernel."""
    made = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell-{i}",
                "source": cell,
                "metadata": {},
                "outputs": [],
                "execution_count": None,
            }
            for i, cell in enumerate(cells)
        ],
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    Path(lab["root"], name).write_text(json.dumps(made))
    page.goto(f"{lab['url']}/tree/{name}?token={lab['token']}&reset")
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=SECONDS * 1000)


def run_all(page: Page) -> Locator:
    """Run all cells, and wait until something of headrace's is on the page; that, as it changes."""
    shown = page.locator(".jp-OutputArea .jp-RenderedHTMLCommon").first

    def begun() -> bool:
        # A click on the menu is lost while the page still arranges itself.
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_timeout(1500)
        return page.locator(".jp-InputPrompt", has_text="[*]").count() > 0 or shown.count() > 0

    wait_until(begun, "a cell runs")
    wait_until(lambda: shown.count() > 0, "headrace shows the run")
    return shown


def seen_until(shown: Locator, last: str) -> list[str]:
    """All different texts of the display, until it says a word."""
    seen: list[str] = []

    def look() -> bool:
        text = shown.inner_text()
        if not seen or seen[-1] != text:
            seen.append(text)
        return last in text

    try:
        wait_until(look, f"the display says {last}")
    finally:
        shown.page.screenshot(path=SCREENSHOTS / "last.png")
    return seen


def quick_start(executor: str) -> list[str]:
    """The cells of the first notebook, up to its flow, for an executor."""
    notebook = json.loads((ROOT / "notebooks" / "1_quick_start.ipynb").read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    first, task, flow = cells[:3]
    assert 'EXECUTOR = "threads"' in first
    return [first.replace('EXECUTOR = "threads"', f'EXECUTOR = "{executor}"'), task, flow]


def done(text: str) -> int:
    """Items done of the first node, as the display tells."""
    return next((int(w.split("/")[0]) for w in text.split() if w.endswith("/42")), 0)


@pytest.mark.parametrize("executor", ["inline", "threads", "processes", "dask", "ray"])
def test_the_display_moves_and_ends(executor: str, lab: dict[str, str], page: Page) -> None:
    opened(page, lab, f"{executor}.ipynb", quick_start(executor))
    shown = run_all(page)
    seen = seen_until(shown, "Completed")
    page.screenshot(path=SCREENSHOTS / f"{executor}.png")
    counts = [done(text) for text in seen]
    total = counts[-1]
    assert counts == sorted(counts)
    assert any(0 < count < total for count in counts), counts
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    _end_kernel(page)


def test_the_stop_button_cancels_the_flow_and_ends_its_work(
    lab: dict[str, str], page: Page
) -> None:
    opened(page, lab, "stop.ipynb", [ENDLESS, "endless()"])
    shown = run_all(page)
    wait_until(lambda: "2 of 2 slots" in shown.inner_text(), "both slots work")
    work = Path(lab["root"], "at-work")
    begun = work.stat().st_size
    wait_until(lambda: work.stat().st_size > begun, "the workers write")
    page.locator("[data-command='notebook:interrupt-kernel']").first.click()
    seen_until(shown, "Interrupted from the keyboard")
    raised = page.locator(".jp-OutputArea-output", has_text="KeyboardInterrupt")
    wait_until(lambda: raised.count() > 0, "the cell has ended")
    page.screenshot(path=SCREENSHOTS / "stop.png")
    text = shown.inner_text()
    assert "Cancelled" in text
    assert "0/10" in text
    # Processes of the pool stay, warm and idle.
    ended = work.stat().st_size
    page.wait_for_timeout(1000)
    assert work.stat().st_size == ended
    assert len(_children()) <= 2
    _end_kernel(page)


def _children() -> dict[int, str]:
    found = processes_with(MARK, str(os.getpid()))
    return {pid: command for pid, command in found.items() if "headrace.executors" in command}


def _end_kernel(page: Page) -> None:
    """Shut all kernels down through the server, and see that none of their processes stays."""
    page.evaluate(
        """async () => {
            const token = document.cookie.match(/_xsrf=([^;]*)/);
            const headers = token ? {"X-XSRFToken": decodeURIComponent(token[1])} : {};
            for (const kernel of await (await fetch("/api/kernels")).json())
                await fetch("/api/kernels/" + kernel.id, {method: "DELETE", headers});
        }"""
    )
    wait_until(lambda: not _children(), f"no child is left: {_children()}")
