"""Opens ferry's live page in a real Chromium and prints what it shows.

Speaks WebDriver to chromedriver with nothing but the standard library, so the
test needs the browser and no package. Prints one JSON object: the page's
texts, errors of its console, and whether anything overflows its width.
"""

import argparse
import base64
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

READ = """
const text = (id) => document.getElementById(id).textContent;
const ids = ['state', 'sentence', 'limit', 'shed', 'shed-note', 'failed', 'queued',
             'ghosts', 'p50', 'p50-note', 'p99', 'method-rows', 'group-rows', 'recent', 'policy', 'reloads'];
const texts = Object.fromEntries(ids.map((id) => [id, text(id)]));
texts.flow = document.getElementById('flow').getAttribute('aria-label');
texts.chart = document.getElementById('chart-limit').getAttribute('aria-label') || '';
texts.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
texts.background = getComputedStyle(document.body).backgroundColor;
texts.focusable = document.querySelectorAll('a[href],button,summary,[tabindex="0"]').length;
return texts;
"""


class Browser:
    """One headless Chromium."""

    def __init__(self, driver, profile, width, height, dark):
        self.base = driver
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", f"--window-size={width},{height}",
        ]
        if dark:
            flags.append("--force-dark-mode")
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": flags},
                  "goog:loggingPrefs": {"browser": "ALL"}}
        made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += "/session/" + made["sessionId"]
        self.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("POST", "/goog/cdp/execute",
                 {"cmd": "Emulation.setEmulatedMedia", "params": {"features": [scheme]}})

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script):
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def tab(self):
        """Presses Tab; answers with what has the focus now, and its outline."""
        keys = [{"type": kind, "value": "\ue004"} for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})
        return self.run("const at = document.activeElement;"
                        "return [at.id || at.textContent.trim(), getComputedStyle(at).outlineStyle];")

    def picture(self, file):
        shot = self.ask("POST", "/goog/cdp/execute", {
            "cmd": "Page.captureScreenshot", "params": {"captureBeyondViewport": True}})
        pathlib.Path(file).write_bytes(base64.b64decode(shot["data"]))


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--url", required=True)
    options.add_argument("--until", default="true", help="JavaScript that is true when the page may be read")
    options.add_argument("--then", default="", help="JavaScript to run when it is")
    options.add_argument("--wait", type=float, default=40, help="the longest to wait, seconds")
    options.add_argument("--width", type=int, default=1280)
    options.add_argument("--height", type=int, default=1300)
    options.add_argument("--dark", action="store_true")
    options.add_argument("--tabs", type=int, default=0, help="press Tab so often, and say where the focus went")
    options.add_argument("--picture", help="write a PNG here")
    asked = options.parse_args()
    # The browser has ended when it is removed, but for what it leaves to end by itself.
    with tempfile.TemporaryDirectory(prefix="ferry-browser-", ignore_cleanup_errors=True) as profile:
        look(asked, profile)


def look(asked, profile):
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = next(line.rsplit("port ", 1)[1].strip(" .\n") for line in driver.stdout if "successfully on port " in line)
        browser = Browser(f"http://127.0.0.1:{port}", profile, asked.width, asked.height, asked.dark)
        try:
            browser.ask("POST", "/url", {"url": asked.url})
            end = time.monotonic() + asked.wait
            while not browser.run(f"return Boolean({asked.until})"):
                if time.monotonic() > end:
                    sys.exit(f"never true within {asked.wait} s: {asked.until}; shown: {browser.run(READ)}")
                time.sleep(0.25)
            if asked.then:
                browser.run(asked.then)
            shown = browser.run(READ)
            shown["tabbed"] = [browser.tab() for _ in range(asked.tabs)]
            shown["console"] = [
                line["message"] for line in browser.ask("POST", "/se/log", {"type": "browser"})
                # /ready answers 503 while ferry is not, which Chromium calls severe.
                if line["level"] == "SEVERE" and not re.search(r"/ready - .* 503 ", line["message"])]
            if asked.picture:
                browser.picture(asked.picture)
            print(json.dumps(shown))
        finally:
            browser.ask("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()


main()
