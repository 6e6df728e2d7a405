"""What a reader, and a browser, make of a page."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def text_of(page):
    """What a reader sees, in one line."""
    shown = re.sub(r"<style.*?</style>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", shown)))


def tags_of(page):
    """Every tag with its attributes, and that those which need an end have one in order."""
    tags, stack = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))
            if tag not in ("meta", "img", "br"):
                stack.append(tag)

        def handle_endtag(self, tag):
            assert stack.pop() == tag, self.getpos()

    Reader().feed(page)
    assert stack == []
    return tags


def browse(page, profile, log):
    """Open a page; returns its document after loading, and what the browser logged."""
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--enable-logging=stderr", "--v=0", "--disable-dev-shm-usage"),
        "--host-resolver-rules=MAP * ~NOTFOUND",
        *(f"--user-data-dir={profile}", f"--log-net-log={log}", "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def requests_of(log):
    """Every address that a page asked for; the browser's own requests have no origin."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    events = [json.loads(line.rstrip(",")) for line in lines if '"initiator":' in line]
    assert all("url" in event["params"] for event in events)
    return {
        event["params"]["url"]
        for event in events
        if event["params"]["initiator"] != "not an origin"
    }
