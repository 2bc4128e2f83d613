"""Record docs/pages/pair.webp: a user plays a pair, presses two words and asks. Waits are cut out.

stepdiff app --store data/features --videos data/kitchen --runs runs --predictions data/demo
.venv/bin/python docs/recording.py 'http://127.0.0.1:8000/pair?reference=CLIP&candidate=CLIP'
WORD_OF_1 WORD_OF_2
"""

import io
import shutil
import sys

from PIL import Image
from playwright.sync_api import Locator, sync_playwright

STEP = 150  # milliseconds between pictures
QUESTION = "Did I use different tools in video 2?"
PLAYER = "document.querySelector('[data-player]').player"
POINTER = """document.body.insertAdjacentHTML("beforeend", `
  <svg id="pointer" width="22" height="30" viewBox="0 0 11 15"
  style="position: fixed; z-index: 99; pointer-events: none; left: 600px; top: 420px">
  <path d="M0 0v12l3-3 2 5 2-1-2-5h4z" fill="black" stroke="white"/></svg>`)"""
MOVE = (
    "([x, y]) => Object.assign(document.querySelector('#pointer').style, {left: `${x}px`, top: "
    "`${y}px`})"
)


def main(address: str, *words: str) -> None:
    """Act as a user does, with a picture of each step."""
    pictures: list[tuple[Image.Image, int]] = []  # with milliseconds
    at = (600.0, 420.0)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(
            viewport={"width": 960, "height": 790}, reduced_motion="reduce", bypass_csp=True
        )

        def take(milliseconds: int = STEP) -> None:
            pictures.append(
                (Image.open(io.BytesIO(page.screenshot())).convert("RGB"), milliseconds)
            )

        def click(target: Locator, milliseconds: int = STEP) -> None:
            nonlocal at
            (x, y), box = at, target.bounding_box()
            assert box is not None
            at = (box["x"] + min(box["width"] / 2, 40), box["y"] + box["height"] / 2)
            for part in (0.5, 0.85, 1):
                page.evaluate(MOVE, [x + part * (at[0] - x), y + part * (at[1] - y)])
                take(STEP // 2)
            target.click()
            take(milliseconds)

        def scroll(to: str, milliseconds: int) -> None:
            top = page.evaluate(f"document.querySelector('{to}').getBoundingClientRect().top - 12")
            for part, shown in ((0.3, STEP // 2), (0.4, STEP // 2), (0.3, milliseconds)):
                page.evaluate(f"scrollBy({{top: {top * part}, behavior: 'instant'}})")
                take(shown)

        page.goto(address)  # ask about another pair before: then the model is in memory
        page.locator("#words a").first.wait_for()
        page.wait_for_function(f"{PLAYER}.length > 0")
        # each of its pictures is set below
        page.evaluate(f"{POINTER}; {PLAYER}.root.dataset.playing = ''")
        for time in range(0, int(1000 * page.evaluate(f"{PLAYER}.length")), STEP):
            page.evaluate(f"{PLAYER}.seek({time / 1000})")
            page.wait_for_function(f"{PLAYER}.videos.every((video) => !video.seeking)")
            take()
        for video, word in zip(("one", "two"), words, strict=True):
            click(page.locator(f"#words .{video}").get_by_role("link", name=word, exact=True), 1200)
        scroll(".pair-model", STEP)
        click(page.locator("#question"))
        for end in range(4, len(QUESTION) + 4, 4):
            page.locator("#question").fill(QUESTION[:end])
            take(STEP // 2)
        click(page.locator("#ask button"))
        answer, said = page.locator("#answers article").first, ""
        while not answer.locator(".note", has_text="in all").count():
            if said != (said := answer.locator(".answer").inner_text()):
                take()
        take(2200)
    (first, *rest), durations = zip(*pictures, strict=True)
    options = {
        "append_images": rest,
        "duration": durations,
        "quality": 72,
        "method": 6,
        "minimize_size": True,
    }
    first.save("docs/pages/pair.webp", save_all=True, loop=0, **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
