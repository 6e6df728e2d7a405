"""What strangers' files say runs in no page that is written, not even without its policy."""

import json
import shutil

import numpy as np
import pytest

from fluxseg.adapt.review.disagreements import ReviewedRecording, cut_patch, find_disagreements
from fluxseg.adapt.review.files import create_rows
from fluxseg.data.recording import Recording
from fluxseg.inference.objects.rois import find_rois
from fluxseg.report.compare import write_comparison
from fluxseg.report.html import write_report
from fluxseg.report.review import write_review_page
from tests.report.pages import BROWSER, browse, requests_of, tags_of
from tests.report.workdirs import create_workdir

RUN = "document.documentElement.setAttribute('ow'+'ned',1)"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"'><svg onload={RUN}>",
    f"</title></style></textarea><script>{RUN}</script>",
    f"javascript:{RUN}",
    f'<a href="javascript:{RUN}" autofocus onfocus="{RUN}">x</a>',
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    "<meta http-equiv=refresh content='0;url=http://nowhere.invalid/a'>",
    "<base href=http://nowhere.invalid/><link rel=stylesheet href=b>",
    "</style><style>@import url(http://nowhere.invalid/c);</style>",
    "<img src=http://nowhere.invalid/d><object data=http://nowhere.invalid/e></object>",
    "{{ 7 * 7 }}{% for a in b %}${7*7}#{7*7}",
    "<!--", "]]>", "\u2028\u2029\x00\x1b[31m", "<plaintext>",
)  # fmt: skip
POLICY = '<meta http-equiv="Content-Security-Policy"'


def poisoned(value, rng):
    """The same structure with a payload in every text that is no number of a kind."""
    if isinstance(value, dict):
        return {name: poisoned(item, rng) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, rng) for item in value]
    return rng.choice(PAYLOADS) if isinstance(value, str) else value


def poison_workdir(folder, seed):
    """Put payloads wherever a run's files hold text that is not a name of its own making."""
    rng = np.random.default_rng(seed)
    for name in ("config", "data", "scores", "examples/examples"):
        path = folder / f"{name}.json"
        value = json.loads(path.read_text())
        changed = poisoned(value, rng)
        if name == "config":
            # One of them is a setting whose name is hostile, too.
            changed["train"][PAYLOADS[seed]] = True
            changed[PAYLOADS[seed + 1]] = {PAYLOADS[seed + 2]: PAYLOADS[seed + 3]}
        if name == "data":
            changed["left_out"] = [{"key": p, "reason": p} for p in PAYLOADS]
            changed["remarks"] = [{"key": p, "remark": p} for p in PAYLOADS]
            changed["source"] = {p: p for p in PAYLOADS}
        if name == "scores":
            for old, new in zip(value["splits"].values(), changed["splits"].values(), strict=True):
                for number, (row, before) in enumerate(
                    zip(new["recordings"], old["recordings"], strict=True)
                ):
                    row["id"] = row["group"] = PAYLOADS[number % len(PAYLOADS)]
                    row["key"] = before["key"] + row["id"]
        if name == "examples/examples":
            for row, before in zip(changed, value, strict=True):
                row["file"] = before["file"]
        path.write_text(json.dumps(changed))
    (folder / "versions.json").write_text(json.dumps({p: p for p in PAYLOADS}))
    return folder


def report_page(tmp_path):
    # The folder's name is shown as well; it can hold anything but a slash.
    folder = create_workdir(tmp_path / PAYLOADS[1])
    return write_report(poison_workdir(folder, 0))


def comparison_page(tmp_path):
    first = create_workdir(tmp_path / PAYLOADS[1])
    second = tmp_path / PAYLOADS[6]
    shutil.copytree(first, second)
    poison_workdir(first, 0)
    poison_workdir(second, 1)
    return write_comparison([first, second], tmp_path / "compare.html")


def review_page(tmp_path):
    masks = np.zeros((len(PAYLOADS), 64, 64), bool)
    for number, mask in enumerate(masks):
        mask[12 * (number // 5) + 2 :, 12 * (number % 5) + 2 :][:8, :8] = True
    reviewed = []
    for number, text in enumerate(PAYLOADS):
        recording = Recording(text, np.zeros((64, 64)), masks, PAYLOADS)
        probability = np.full((64, 64), 0.02)
        found = find_disagreements(masks, probability, find_rois(probability))
        assert {one.kind for one in found} == {"doubtful"}
        patches = {n: cut_patch(recording, one) for n, one in enumerate(found) if not number}
        one = ReviewedRecording(text, text, text, PAYLOADS, tuple(found), (text,), patches)
        reviewed.append(one if not number else ReviewedRecording(text, text, text, PAYLOADS, ()))
    output = tmp_path / "review"
    output.mkdir()
    return write_review_page(reviewed, create_rows(reviewed), PAYLOADS, output)


def notebook_page(tmp_path):
    metadata = dict(zip(PAYLOADS, PAYLOADS[::-1], strict=True)) | {"um_per_px": 0.8}
    parts = []
    for text in PAYLOADS:
        masks = np.zeros((1, 16, 16), bool)
        masks[0, 2:9, 3:9] = True
        recording = Recording(text, np.eye(16), masks, (text,), text, metadata, PAYLOADS)
        parts.append(recording._repr_html_())
    path = tmp_path / "notebook.html"
    page = "<!DOCTYPE html><html><head></head><body>" + "".join(parts) + "</body></html>"
    path.write_text(page, "utf-8")
    return path


def sweep_page(tmp_path):
    sweep = pytest.importorskip("fluxseg.report.sweep")
    scores = {"neuron_iou": 0.5}
    rows = [
        sweep.Row(text, dict.fromkeys(PAYLOADS, text), 0.5, 1, scores, scores, 1.0, failure)
        for text, failure in zip(PAYLOADS, PAYLOADS[::-1], strict=True)
    ]
    return sweep.write_table(sweep.Table("val_neuron_iou", PAYLOADS, tuple(rows)), tmp_path)


PAGES = (report_page, comparison_page, review_page, notebook_page, sweep_page)


@pytest.mark.parametrize("create", PAGES)
def test_no_page_runs_or_fetches_what_files_say(create, tmp_path):
    path = create(tmp_path)
    page = path.read_text("utf-8")
    assert "ow&#39;+&#39;ned" in page
    if create is not notebook_page:
        assert POLICY + " content=\"default-src 'none'; img-src data:" in page
        assert page.index(POLICY) < page.index("<title>")
    forbidden = {"script", "iframe", "object", "base", "link", "animate", "svg", "plaintext"}
    for tag, attributes in tags_of(page):
        assert tag not in forbidden
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
        assert all(key != "src" or text.startswith("data:") for key, text in attributes.items())
    if BROWSER is None:
        pytest.skip("the page is escaped; no chromium or chrome is here to open it")
    bare = tmp_path / "bare.html"
    bare.write_text("\n".join(x for x in page.split("\n") if POLICY not in x), "utf-8")
    for number, opened in enumerate((path, bare)):
        log = tmp_path / f"{number}.json"
        dom, errors = browse(opened, tmp_path / f"profile{number}", log)
        assert 'owned="1"' not in dom
        assert requests_of(log) == set()
        assert "CONSOLE" not in errors, errors
