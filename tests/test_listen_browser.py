"""The page of a rater in a browser: filled by keys, kept, and read back. Skipped where there is no Chromium."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import listening
from tests.browser import BROWSER, told_by
from thaitool.listening.key import key_path, read_key
from thaitool.listening.ratings import read_ratings
from thaitool.stages import listen

#: Runs behind the page's own program, once the policy that forbids it is taken out.
DRIVER = """
const told = { pages: [], marks: [] };
const press = (code, target) => (target || document.body).dispatchEvent(
  new KeyboardEvent("keydown", { code, key: code === "Enter" ? "Enter" : "ภ", bubbles: true }));
const n = content.clips.length;
for (let k = 0; k < n; k += 1) {
  told.pages.push(clip().name);
  press("Digit" + (1 + k % 5));
  if (clip().text) press(["KeyY", "KeyN", "KeyU"][k % 3]);
  else {
    heard.value = " ";  // no answer: the file would have none
    heard.dispatchEvent(new Event("input"));
    told.blank = isDone(clip());
    heard.value = k % 2 ? "-" : '"' + "สวัสดี,\\n" + clip().name + '"';
    heard.dispatchEvent(new Event("input"));
    press("Digit5", heard);  // typed into the field, not a rating
  }
  press("Enter", clip().text ? null : heard);
}
state = { place: 0, answers: {} };
load();  // as after the page was closed
show(0);
told.done = content.clips.filter(isDone).length;
told.missing = at("missing").hidden;
at("copying").open = true;
showCsv();
told.wide = document.documentElement.scrollWidth - window.innerWidth;
const box = document.createElement("pre");
box.id = "told";
box.textContent = JSON.stringify({ ...told, csv: at("csv").value });
document.body.append(box);
"""


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_a_page_filled_by_keys_is_read_back(tmp_path: Path) -> None:
    data = listening.stored(tmp_path)
    made = listen.pack(data, tmp_path / "pack", items=14, canaries=4, raters=1, written_share=0.4)
    key = read_key(key_path(made.out))
    page = (made.out / "rater-1.html").read_text("utf-8")
    page = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    page = page.replace("</body>", f"<script>{DRIVER}</script></body>")
    (tmp_path / "driven.html").write_text(page, "utf-8")
    told = told_by(tmp_path / "driven.html", tmp_path / "profile", window=(390, 844))
    assert told["pages"] == list(key.orders["rater-1"])
    assert (told["done"], told["missing"]) == (18, True)
    assert told["wide"] <= 0
    assert told["blank"] is False

    file = tmp_path / "ratings.csv"
    file.write_text(told["csv"], "utf-8-sig")
    ratings = read_ratings([file], key)
    assert [r.naturalness for r in ratings] == [1 + k % 5 for k in range(18)]
    for k, (name, rating) in enumerate(zip(told["pages"], ratings, strict=True)):
        assert rating.is_whole
        if rating.clip.shown:
            assert rating.tones == ("yes", "no", "unsure")[k % 3]
        else:
            assert rating.transcription == ("" if k % 2 else f'"สวัสดี, {name}"')
