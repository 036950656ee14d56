"""The server's page in a browser, wide and as on a phone: a file, a recording, an answer. Skipped without Chromium."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx2
import pytest

from tests import serving
from tests.browser import BROWSER
from thaitool.audio.decode import decode
from thaitool.inference.request import Request, Sampling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


class Page:
    """A tab, by the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self.complaints: list[str] = []
        """What the browser logged: errors of the program, violations of the policy."""

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive(60)).data)
            told = message.get("params", {})
            level = told.get("entry", {}).get("level")
            if message.get("method") == "Runtime.exceptionThrown" or level in {"error", "warning"}:
                self.complaints.append(json.dumps(told))
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def js(self, expression: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        found = await self.do(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, condition: str) -> None:
        """Waits until an expression is true."""
        for _ in range(600):
            if await self.js(condition):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(
            f"{condition} did not become true; {await self.js('document.body.innerText')}"
        )

    async def open(self, url: str, width: int) -> None:
        """Loads a page in a window of this width."""
        for domain in ("Page", "Runtime", "Log", "DOM"):
            await self.do(f"{domain}.enable")
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await self.do("Page.navigate", url=url)
        await self.until("document.querySelectorAll('input[name=task]').length > 0")

    async def choose(self, path: Path) -> None:
        """Puts a file into the page's file field."""
        root = (await self.do("DOM.getDocument"))["root"]["nodeId"]
        field = await self.do("DOM.querySelector", nodeId=root, selector="#file")
        await self.do("DOM.setFileInputFiles", nodeId=field["nodeId"], files=[str(path)])
        await self.until("!document.getElementById('chosen').hidden")

    async def answer(self) -> str:
        """Presses Ask and waits for the end of the answer."""
        await self.js("document.getElementById('ask').click()")
        await self.until("document.getElementById('facts').textContent.endsWith(' s')")
        text: str = await self.js("document.getElementById('answer').textContent")
        return text

    async def picture(self, path: Path) -> None:
        """A PNG of all of the page."""
        shot = await self.do("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def browsing(profile: Path) -> AsyncIterator[Page]:
    """A browser with a microphone that beeps."""
    assert BROWSER is not None
    process = subprocess.Popen(
        [
            BROWSER,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"),
            *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
            *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync", "--disable-default-apps"),
            f"--user-data-dir={profile}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        told = profile / "DevToolsActivePort"
        for _ in range(600):
            if told.exists() and len(told.read_text("utf-8").splitlines()) == 2:
                break
            await asyncio.sleep(0.05)
        port = told.read_text("utf-8").splitlines()[0]
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as tab:
                socket = (await tab.json(content_type=None))["webSocketDebuggerUrl"]
            async with session.ws_connect(socket, max_msg_size=0) as connected:
                yield Page(connected)
    finally:
        process.kill()
        process.wait(30)


def in_browser(tmp_path: Path, drive: Callable[[Page, str], Any], **server: Any) -> Page:
    """What a browser went through with a server of its own."""
    with serving.serving(serving.engine(tmp_path), **server) as url:

        async def main() -> Page:
            async with browsing(tmp_path / "profile") as page:
                await drive(page, url)
                return page

        return asyncio.run(main())


@needs_browser
@pytest.mark.parametrize("width", [1200, 412])
def test_a_file_is_asked_about(tmp_path: Path, width: int) -> None:
    path = tmp_path / "เสียง.wav"
    path.write_bytes(serving.sound(serving.clip(0)))
    samples = decode(str(path), "clip")
    twelve = Sampling(max_new_tokens=12)
    requests = [
        Request(samples, sampling=twelve),
        Request(samples, task="ic", sampling=twelve),
        Request(samples, prompt="ใครพูด", sampling=twelve),
    ]
    expected = [reply.text for reply in serving.engine(tmp_path / "offline").answer(requests)]

    async def drive(page: Page, url: str) -> None:
        await page.open(url, width)
        assert await page.js("document.getElementById('ask').disabled")
        await page.choose(path)
        assert await page.answer() == expected[0]
        await page.js("document.querySelector('input[value=ic]').click()")
        assert await page.answer() == expected[1]
        await page.js("document.querySelector('input[name=task][value=\"\"]').click()")
        await page.js("document.getElementById('prompt').value = 'ใครพูด'")
        assert await page.answer() == expected[2]
        # Nothing hangs over the edge, and what a finger must hit is large enough.
        assert await page.js("document.documentElement.scrollWidth - window.innerWidth") <= 0
        small = "[...document.querySelectorAll('button, .button, .tasks label')]"
        assert await page.js(f"{small}.every((e) => !e.offsetHeight || e.offsetHeight >= 40)")

    assert in_browser(tmp_path, drive).complaints == []


@needs_browser
def test_a_recording_is_asked_about_and_errors_are_shown(tmp_path: Path) -> None:
    text = tmp_path / "notes.wav"
    text.write_text("ไม่ใช่เสียง", "utf-8")

    async def drive(page: Page, url: str) -> None:
        await page.open(url, 412)
        await page.js("window.devices = navigator.mediaDevices; window.opened = 0")
        await page.js("window.open_ = devices.getUserMedia.bind(devices), undefined")
        await page.js(
            "devices.getUserMedia = (want) => { opened++; return open_(want); }, undefined"
        )
        # Pressed twice before the browser has asked for permission: the first would never stop.
        await page.js("at('record').click(), at('record').click()")
        await page.until("document.getElementById('recordText').textContent.endsWith('0:01')")
        assert await page.js("opened") == 1
        await page.js("document.getElementById('record').click()")
        await page.until("!document.getElementById('chosen').hidden")
        assert await page.js("sound.name") == "recording.wav"
        assert await page.answer()
        await page.choose(text)
        await page.js("document.getElementById('ask').click()")
        await page.until("!document.getElementById('problem').hidden")
        problem = await page.js("document.getElementById('problem').textContent")
        assert "notes.wav must be a usable recording" in problem

    complaints = in_browser(tmp_path, drive).complaints
    # The browser itself logs answers of 400.
    assert [c for c in complaints if "status of 400" not in c] == []


@needs_browser
def test_a_key_is_asked_for(tmp_path: Path) -> None:
    async def drive(page: Page, url: str) -> None:
        for domain in ("Page", "Runtime"):
            await page.do(f"{domain}.enable")
        await page.do("Page.navigate", url=url)
        await page.until("document.getElementById('locked')?.hidden === false")
        await page.js("at('key').value = 'k'; at('key').dispatchEvent(new Event('change'))")
        await page.until("document.querySelectorAll('input[name=task]').length === 6")
        assert await page.js("at('problem').hidden")

    in_browser(tmp_path, drive, rules={"key": "k"})


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    with serving.serving(serving.engine(tmp_path)) as url:
        for path in ("/", "/page.js", "/page.css"):
            found = httpx2.get(url + path)
            assert found.status_code == 200
            assert "default-src 'none'" in found.headers["content-security-policy"]
            assert "http" not in found.text.replace("https หรือ", "").replace("on https or", "")
        page = httpx2.get(url + "/").text
        assert "onclick" not in page
        assert "style=" not in page
