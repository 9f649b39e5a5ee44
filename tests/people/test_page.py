"""The page in a real browser: keys, mouse and fingers, reload, two raters, a server that goes away and comes back."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmflow.people.scores import all_said
from mmflow.people.server import open_server
from mmflow.people.session import Session, Settings, make_session
from mmflow.people.sides import open_side
from mmflow.people.votes import read_votes
from tests.people.studies import fill_store, study

selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[test-browser]'")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="no browser: apt-get install -y chromium chromium-driver"
    ),
]
DESKTOP, PHONE = (1280, 800), (390, 844)
PATIENCE = 60.0
ROOT = Path(__file__).parents[2]


def open_browser(size: tuple[int, int]) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"):
        options.add_argument(word)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 2 if size == PHONE else 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    if size == PHONE:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    return browser


@pytest.fixture(scope="module")
def browsers() -> Iterator[Callable[[tuple[int, int]], webdriver.Chrome]]:
    """One of each size, started when it is first asked for."""
    opened: dict[tuple[int, int], webdriver.Chrome] = {}

    def browser(size: tuple[int, int] = DESKTOP) -> webdriver.Chrome:
        if size not in opened:
            opened[size] = open_browser(size)
        return opened[size]

    yield browser
    for each in opened.values():
        each.quit()


class Served:
    """A session with its server, in this process."""

    def __init__(self, session: Session) -> None:
        self.session, self.server = session, open_server(session, port=0)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def serve(session: Session, port: int = 0) -> tuple[subprocess.Popen, int]:
    """The program itself, and its port, once it answers."""
    command = [sys.executable, str(ROOT / "tools" / "human_eval.py"), "serve", str(session.folder), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    found = re.match(r"http://127.0.0.1:(\d+)/", process.stdout.readline())
    assert found is not None
    return process, int(found[1])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(study(tmp_path, settings=Settings(repeats=0.0)))
    yield served
    served.stop()


def wait(true: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < end, "the page did not come to it"
        time.sleep(0.02)
    return found


def start(browser: webdriver.Chrome, url: str, rater: str) -> None:
    """As somebody who has never been here."""
    browser.get(url)
    browser.execute_script("localStorage.clear()")
    browser.get(url)
    wait(lambda: browser.find_element(By.ID, "name").is_displayed())
    browser.find_element(By.ID, "name").send_keys(rater + Keys.ENTER)
    ready(browser)


def ready(browser: webdriver.Chrome, place: int | None = None) -> None:
    """Both samples are there and an answer is waited for."""
    said = "return [!busy && !document.getElementById('rate').hidden, now && now.place]"
    wait(lambda: (s := browser.execute_script(said))[0] and (place is None or s[1] == place))


def ended(browser: webdriver.Chrome) -> bool:
    return browser.find_element(By.ID, "end").is_displayed()


def press(browser: webdriver.Chrome, key: str) -> None:
    ActionChains(browser).send_keys(key).perform()


def step(browser: webdriver.Chrome) -> int | None:
    """The place of the question that waits for an answer, or None at the end."""
    return wait(
        lambda: (
            (None,)
            if ended(browser)
            else ((now,) if (now := browser.execute_script("return busy ? null : now.place")) is not None else False)
        )
    )[0]


def test_by_keyboard_to_the_end_with_reload_and_correction(browsers: Any, served: Served) -> None:
    browser, tasks = browsers(), served.session.tasks("anna")
    start(browser, served.server.url, "anna")
    keys = [Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, "1", "3", "2", "a", "b"]
    answers = ["left", "right", "tie"] * 2 + ["left", "right"]
    assert len(tasks) == len(keys)
    for n, key in enumerate(keys):
        ready(browser, n)
        if n == 3:
            browser.refresh()
            ready(browser, n)
        press(browser, key)
    wait(lambda: ended(browser))
    votes = {vote.task: vote for vote in read_votes(served.session)}
    assert [votes["anna", t.pair, t.question, t.repetition].answer for t in tasks] == answers
    press(browser, Keys.BACKSPACE)
    ready(browser, len(tasks) - 1)
    assert browser.find_element(By.CSS_SELECTOR, "button.chosen").get_attribute("data-answer") == "right"
    press(browser, Keys.BACKSPACE)
    ready(browser, len(tasks) - 2)
    press(browser, Keys.ARROW_DOWN)
    wait(lambda: ended(browser))
    corrected = {vote.task: vote.answer for vote in read_votes(served.session)}
    assert corrected["anna", tasks[-2].pair, tasks[-2].question, 0] == "tie" and len(corrected) == len(tasks)


def test_what_is_seen_is_what_is_asked_and_names_nobody(browsers: Any, served: Served) -> None:
    browser, session = browsers(), served.session
    start(browser, served.server.url, "ben")
    pairs, seen = {pair.id: pair for pair in session.pairs}, set()
    for n, task in enumerate(session.tasks("ben")):
        ready(browser, n)
        item = session.items[pairs[task.pair].item]
        assert browser.find_element(By.ID, "prompt").text == item.prompt
        assert browser.find_element(By.ID, "replay").is_displayed() == (item.medium == "clip")
        tag = "video" if item.medium == "clip" else "img"
        shown = browser.find_elements(By.CSS_SELECTOR, f"figure > {tag}")
        order = (
            (pairs[task.pair].a, pairs[task.pair].b) if task.left == "a" else (pairs[task.pair].b, pairs[task.pair].a)
        )
        assert [each.get_attribute("src").rsplit("/", 1)[1] for each in shown] == [item.media[m] for m in order]
        if item.medium == "clip":
            wait(
                lambda: browser.execute_script(
                    "return [...document.querySelectorAll('video')].every((v) => v.currentTime > 0)"
                )
            )
        seen.add(browser.find_element(By.ID, "title").text)
        page = browser.page_source + str(browser.execute_script("return JSON.stringify([localStorage, now])"))
        assert not [word for word in ("secret", "model-", "00000", ".png", ".mp4", str(session.folder)) if word in page]
        press(browser, Keys.ARROW_LEFT)
    wait(lambda: ended(browser))
    assert seen == {"Prompt following:", "Visual aesthetics:", "Typography:", "Motion:"}


def test_on_a_phone_everything_fits_and_fingers_do(browsers: Any, served: Served) -> None:
    browser = browsers(PHONE)
    start(browser, served.server.url, "cleo")
    fits = """
        const box = (e) => e.getBoundingClientRect(), page = document.documentElement;
        const [a, b] = ['left', 'right'].map((id) => box(document.getElementById(id)));
        const buttons = [...document.querySelectorAll('#answers button')].map(box);
        return page.scrollWidth <= innerWidth && page.scrollHeight <= innerHeight && a.bottom <= b.top
            && Math.min(a.height, b.height) > 200 && buttons.every((e) => e.bottom <= innerHeight && e.height >= 44)
    """
    for n in range(len(served.session.tasks("cleo"))):
        ready(browser, n)
        assert browser.execute_script(fits), "stacked, no scrolling, buttons for fingers"
        if n == 0:
            browser.find_element(By.ID, "left").click()
            assert "large" in browser.find_element(By.ID, "left").get_attribute("class")
            browser.find_element(By.ID, "left").click()
        browser.find_elements(By.CSS_SELECTOR, "#answers button")[n % 3].click()
    wait(lambda: ended(browser))
    assert len(read_votes(served.session)) == len(served.session.tasks("cleo"))


def test_a_server_that_is_killed_loses_no_answer_not_even_over_a_reload(browsers: Any, tmp_path: Path) -> None:
    browser, session = browsers(), study(tmp_path)
    process, port = serve(session)
    try:
        start(browser, f"http://127.0.0.1:{port}/", "dora")
        process.kill()
        process.wait()
        press(browser, Keys.ARROW_RIGHT)
        wait(lambda: "Your answer is not lost" in browser.find_element(By.ID, "trouble").text)
        press(browser, Keys.ARROW_LEFT)
        process, _ = serve(session, port)
        ready(browser, 1)
        assert not browser.find_element(By.ID, "trouble").is_displayed()
        assert [vote.answer for vote in read_votes(session)] == ["right"], "one answer, and none while it was away"
        vote = {"id": "kept", "rater": "dora", "task": session.tasks("dora")[1].id, "answer": "tie", "seconds": 1}
        browser.execute_script("localStorage[WAITING + 'kept'] = JSON.stringify(arguments[0])", vote)
        browser.refresh()
        ready(browser, 2)
        assert [vote.id for vote in read_votes(session)][1] == "kept"
        left = "return Object.keys(localStorage).filter((key) => key.startsWith(WAITING)).length"
        assert browser.execute_script(left) == 0
    finally:
        process.kill()
        process.wait()


def test_two_raters_at_once_in_two_browsers_are_recovered(browsers: Any, tmp_path: Path) -> None:
    """Raters who prefer by Bradley and Terry's rule, through the page: what they prefer comes out."""
    prompts, strengths = [f"a red circle, take {n}" for n in range(12)], [0.0, 2.5]
    sides = [open_side(f"m{m}={fill_store(tmp_path / f'run-{m}', m, prompts)}") for m in range(2)]
    served = Served(make_session(tmp_path / "s", sides, Settings(questions=("prompt",), repeats=0.25)))
    try:
        session, rng = served.session, np.random.default_rng(0)
        media = {x: m for item in session.items for m, x in enumerate(item.media)}
        both = {"eva": browsers(), "finn": browsers(PHONE)}
        for name, browser in both.items():
            start(browser, served.server.url, name)
        going = dict(both)
        while going:
            for name, browser in list(going.items()):
                if step(browser) is None:
                    del going[name]
                    continue
                shown = browser.find_elements(By.CSS_SELECTOR, "figure > img")
                left, right = (strengths[media[each.get_attribute("src").rsplit("/", 1)[1]]] for each in shown)
                wins = rng.random() < 1 / (1 + np.exp(right - left))
                press(browser, Keys.ARROW_LEFT if wins else Keys.ARROW_RIGHT)
        votes = read_votes(session)
        assert len(votes) == sum(len(session.tasks(name)) for name in both) == 30
        (said,) = all_said(session, votes, "m0")
        assert said.raters == 2 and said.elo is not None
        truth = 1 / (1 + np.exp(-2.5))
        assert said.rates[0].rate.low < 1 - truth < said.rates[0].rate.high
        assert said.elo["m1"].low < 1000 + 400 / np.log(10) * 2.5 < said.elo["m1"].high and said.elo["m1"].low > 1000
    finally:
        served.stop()
