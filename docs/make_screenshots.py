"""Take the pictures of docs/images: python docs/make_screenshots.py (needs Chromium).

Runs the example flow twice on a real Airflow and photographs the grid and the graph of each run, the form that triggers
one, the query of a task, and the links of a task that was skipped.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from pipedag_airflow.testing.airflow import LocalAirflow

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
# Groups unfold, and the graph is laid out and zoomed, with an animation; the page does not say when it is over.
SETTLE = 2000
#: A task with a query, which the second run finds valid.
TASK = "clean.clean_flights"
#: What is photographed of it, and how the picture is called.
TABS = {"first-run": ("rendered_templates", "task-query"), "unchanged-run": ("details", "task-links")}
#: Which sections of the form are photographed, and how the pictures are called.
SECTIONS = {"Run": "trigger-form-run", "Cache": "trigger-form"}
# Chromium phones home at every start unless it is told not to.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


def photograph(page: Page, airflow: LocalAirflow, run_id: str, name: str) -> None:
    """Save the grid and the graph of a run, all groups open."""
    page.set_viewport_size({"width": 1400, "height": 850})
    page.goto(f"{airflow.url}/dags/flights/runs/{run_id}")
    page.wait_for_load_state("networkidle")
    show(page, "Show Grid")
    page.screenshot(path=IMAGES / f"{name}-grid.png")
    page.set_viewport_size({"width": 2600, "height": 620})
    show(page, "Show Graph")
    page.get_by_label("Collapse Details Panel").click()
    page.wait_for_timeout(SETTLE)
    page.locator(".react-flow__controls-fitview").click()
    page.wait_for_timeout(SETTLE)
    page.locator(".react-flow").screenshot(path=IMAGES / f"{name}-graph.png")
    page.get_by_label("Show Details Panel").click()


def photograph_form(page: Page, airflow: LocalAirflow) -> None:
    """Save the form that triggers a run, twice, each time with another of its sections open: it shows one at a time."""
    page.set_viewport_size({"width": 1000, "height": 1400})
    page.goto(f"{airflow.url}/dags/flights")
    page.wait_for_load_state("networkidle")
    page.get_by_role("button", name="Trigger").first.click()
    page.wait_for_timeout(SETTLE)
    form = page.get_by_role("dialog")
    for section, name in SECTIONS.items():
        form.get_by_role("button", name=section, exact=True).click()
        page.wait_for_timeout(SETTLE)
        form.screenshot(path=IMAGES / f"{name}.png")
    page.keyboard.press("Escape")


def photograph_task(page: Page, airflow: LocalAirflow, run_id: str, task_id: str, tab: str, name: str) -> None:
    """Save a tab of a task instance."""
    page.set_viewport_size({"width": 1400, "height": 760})
    page.goto(f"{airflow.url}/dags/flights/runs/{run_id}/tasks/{task_id}/{tab}")
    page.wait_for_load_state("networkidle")
    show(page, "Show Grid")
    page.screenshot(path=IMAGES / f"{name}.png")


def show(page: Page, view: str) -> None:
    """Switch to a view and unfold all groups."""
    page.locator(f"button[aria-label^='{view}']").click()
    expand = page.get_by_label("Expand all task groups")
    if expand.is_enabled():
        expand.click()
    page.wait_for_timeout(SETTLE)


def main() -> int:
    """Run the flow twice and photograph both runs."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.stderr.write("Chromium is not installed: apt-get install chromium\n")
        return 1
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home, data = Path(folder, "airflow"), Path(folder, "data")
        environment = {"PIPEDAG_HOME": str(data)}
        with (
            LocalAirflow(home, dags_folder=ROOT / "dags_examples", env=environment) as airflow,
            sync_playwright() as playwright,
        ):
            client = airflow.client
            client.wait_dag("flights")
            client.unpause("flights")
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(viewport={"width": 1500, "height": 1000})
            page.goto(airflow.url)
            page.get_by_role("textbox").first.fill(airflow.username)
            page.locator("input[type=password]").fill(airflow.password)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_load_state("networkidle")
            for name in ("first-run", "unchanged-run"):
                run_id = client.trigger("flights")
                client.wait_run("flights", run_id)
                photograph(page, airflow, run_id, name)
                tab, picture = TABS[name]
                photograph_task(page, airflow, run_id, TASK, tab, picture)
            photograph_form(page, airflow)
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
