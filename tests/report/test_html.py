"""The page: self-contained, escaped, complete, and honest about what is missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
import torch
from fake_runs import Blind, Tiny, fake_run

from genssl.errors import DataError, SettingsError
from genssl.files import DiskError
from genssl.report import figures, neighbours, write
from genssl.report.diagram import diagram
from genssl.report.distrust import distrust
from genssl.report.drawing import Drawing

VOID = {"meta", "img", "wbr", "path", "rect", "circle"}
EVIL = '"><script>alert(1)</script><img src=http://x onerror=alert(2)>&$_'
METRICS = [
    {"step": i, "epoch": 1, "reconstruction": -100.0 / i, "entropy": 1.0, "prior": -2.0, "elbo": -100 / i - 1,
     "objective": -100 / i - 1, "views_per_second": 9.0, "knn": 0.5 if i % 5 == 0 else None}
    for i in range(1, 21)
]  # fmt: skip
CONFIG = {
    "method": "Tiny",
    "data": "tiny",
    "seed": 3,
    "steps": 20,
    "num_views": 2,
    "settings": {"view_scale": 0.4},
    "versions": {"torch": "2.13"},
    "slots": {"reconstruction": "LogLikelihood", "entropy": "PosteriorEntropy(analytic=True)", "prior": "LogPrior"},
    "data_description": {"name": "tiny", "sizes": {"train": 300}, "event_shape": [1, 6, 6], "notes": "made up"},
}
CONTENT = {name: {"validation": 0.9, "test": 0.812, "test_best": 0.834} for name in ("knn", "linear", "mlp")}
RANDOM = {name: {"validation": 0.5, "test": 0.491, "test_best": 0.5} for name in ("knn", "linear", "mlp")}


def style_of(linear, **parts):
    """The style of a run in evaluation.json; scores are distinct, so that each can be found in its cell."""
    figures = {
        "crop": {"kind": "continuous", "linear": {"test": linear}, "kernel": {"test": linear + 0.1}},
        "flip": {
            "kind": "categorical",
            "majority": 0.512,
            "linear": {"test": 0.6 + linear / 10},
            "kernel": {"test": 0.7},
        },
    }
    return {"z": figures, "left_out": {}} | parts


PARTS = {
    part: {"crop": {"kind": "continuous", "linear": {"test": value}}}
    for part, value in (("content", 0.17), ("residual", -0.46))
}
EVALUATION = {"content": CONTENT, "random_encoder": {"content": RANDOM}, "generation": {"mse": 0.01234}, "notes": {}}


@pytest.fixture(autouse=True)
def prepared(tmp_path, monkeypatch):
    """Two folders, and figures that are coarse and quick; test_figures looks at the real ones."""
    monkeypatch.setattr(figures, "DPI", 40)
    monkeypatch.setattr(neighbours, "NEIGHBOURS", 30)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()


class Page(HTMLParser):
    """Tags, attributes and visible text; a tag that is not closed is an error."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self.open, self.closed = [], [], "", [], True
        self.feed(html)
        self.closed = not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def page_of(run, evaluation=EVALUATION):
    if evaluation is not None:
        (run.path / "evaluation.json").write_text(json.dumps(evaluation))
    return Page(write([run]).read_text())


def without_images(html):
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)


def test_tells_the_run_from_top_to_bottom(tmp_path):
    run = fake_run(tmp_path, config=CONFIG, metrics=METRICS)
    page = page_of(run)
    assert page.closed
    parts = ["Tiny on tiny", "A linear auto-encoder of images.", "What was fitted", "LogLikelihood", "view_scale", "The fit",
             "What the representation is worth", "81.2%", "49.1%", "83.4%", "0.01234", "Reconstructions", "Samples",
             "Map of z", "Posterior standard deviations", "How sure it is", "Intervals on embeddings", "What to distrust",
             "made up", "One seed (3)"]  # fmt: skip
    places = [page.text.index(part) for part in parts]
    assert places == sorted(places)
    assert "second paragraph" not in page.text
    assert "Gaussian with the mean and covariance of 300 training representations" in page.text
    names = {
        "reconstruction",
        "entropy",
        "prior",
        "elbo",
        "knn",
        "reconstructions",
        "samples",
        "map",
        "neighbours",
        "posterior_scales",
        "class_samples",
        "traversals",
        "intervals",
        "surest",
        "degraded",
    }
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"{name}.png" for name in names}
    assert page.tags.count("img") == len(names)


def test_style_stands_beside_that_of_the_random_encoder(tmp_path):
    found = {"items": None, "views": style_of(0.31, **PARTS, left_out={"hue": "the same in all train rows"})}
    random = {"content": RANDOM, "style": {"items": None, "views": style_of(0.12)}}
    notes = {"style.items": "the train items have no known style factors"}
    run = fake_run(tmp_path, config=CONFIG, metrics=METRICS)
    page = page_of(run, EVALUATION | {"style": found, "random_encoder": random, "notes": notes})
    assert page.closed
    heads = "style of views, on testz, linearz, kernelrandom encoder, linearrandom encoder, kernelcontent, linearresidual, linear"
    assert heads in page.text
    assert "crop0.310.410.120.220.17-0.46" in page.text
    assert "flip (most frequent: 51.2%)63.1%70.0%61.2%70.0%--" in page.text
    assert "hue: the same in all train rows." in page.text
    assert "No style of items: the train items have no known style factors." in page.text
    assert "Here J is" not in page.text
    known = {"style": found | {"views": found["views"] | {"num_views": 4}}}
    assert "Here J is 4: 0.25 and 0.75." in page_of(run, EVALUATION | known).text
    assert page.text.count("R2 of known factors of style") == 1


def test_style_of_items_alone_and_none_at_all(tmp_path):
    run = fake_run(tmp_path, config=CONFIG, metrics=[])
    figures = {"items": style_of(0.31), "views": None}
    page = page_of(run, EVALUATION | {"style": figures})  # and no random encoder beside it
    assert "style of items, on test" in page.text
    assert "crop0.310.41--" in page.text
    assert "No style of views: not measured." in page.text
    nothing = style_of(0.31, z={}, left_out={EVIL: EVIL})
    page = page_of(run, EVALUATION | {"style": {"items": nothing, EVIL: None}})
    assert "R2 of known" not in page.text
    assert page.text.count("<script>alert(1)</script>") == 3
    for old in (EVALUATION, EVALUATION | {"style": None}):
        assert "style of" not in page_of(run, old).text.replace("the style of view j", "")


def test_asks_nothing_of_the_network(tmp_path):
    html = without_images(write([fake_run(tmp_path, config=CONFIG, metrics=METRICS)]).read_text())
    assert "http" not in html
    assert "//" not in html
    assert "url(" not in html.replace("url(#tip)", "")
    assert all(value.startswith("data:image/png") for name, value in Page(html).attributes if name in ("src", "href"))
    assert not {"script", "link", "iframe", "object"} & set(Page(html).tags)


def test_hostile_names_stay_text(tmp_path):
    config = {
        "method": EVIL, "data": EVIL, "seed": 0, "num_views": 2, "settings": {EVIL: EVIL}, "versions": {EVIL: EVIL}, "lr": EVIL,
        "slots": dict.fromkeys(("reconstruction", "entropy", "prior"), EVIL), "notes": [EVIL],
        "data_description": {"name": EVIL, "sizes": {EVIL: 1}, "event_shape": [EVIL], "notes": EVIL},
    }  # fmt: skip
    harmless = page_of(fake_run(tmp_path / "a", config=CONFIG, metrics=METRICS))
    run = fake_run(tmp_path / "b", config=config, metrics=METRICS, classes=(EVIL, EVIL, EVIL))
    type(run.method).source = EVIL
    try:
        page = page_of(run, EVALUATION | {"content": None, "notes": {"content": EVIL}})
    finally:
        del type(run.method).source
    assert page.closed
    assert set(page.tags) <= set(harmless.tags)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.text.count("<script>alert(1)</script>") > 10
    several = Page(write([run, run], tmp_path / "many.html").read_text())
    assert set(several.tags) <= set(harmless.tags)


def test_leaves_the_run_bit_identical_and_writes_the_same_page_twice(tmp_path):
    run = fake_run(tmp_path, config=CONFIG, metrics=METRICS)
    run.method.train()
    before = {name: value.clone() for name, value in run.method.state_dict().items()}
    generator = torch.get_rng_state()
    first = write([run]).read_bytes()
    assert all(torch.equal(value, before[name]) for name, value in run.method.state_dict().items())
    assert run.method.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert write([run]).read_bytes() == first


def test_several_runs_stand_side_by_side(tmp_path):
    runs = [fake_run(tmp_path / name, config=CONFIG | {"method": name.upper()}, metrics=METRICS) for name in "ab"]
    (tmp_path / "b" / "evaluation.json").write_text(json.dumps(EVALUATION))
    assert write(runs) == tmp_path / "a" / "report.html"
    path = write(runs, tmp_path / "sub" / "both.html")
    page = Page(path.read_text())
    assert page.tags.count("article") == 2
    assert "2 runs" in page.text
    assert page.text.index("A on tiny") < page.text.index("B on tiny")
    assert (tmp_path / "b" / "figures" / "elbo.png").exists()
    with pytest.raises(SettingsError, match="no runs"):
        write([])


def test_says_what_is_missing(tmp_path):
    run = fake_run(tmp_path, config={}, metrics=[])
    page = page_of(run, None)
    assert "has not been evaluated" in page.text
    assert page.text.count("No value of it was written") == 1
    assert (
        "Reconstruction term, Entropy term, Prior term, Sum of the three terms, kNN accuracy during the fit: none."
        in page.text
    )
    page = page_of(run, {"content": None, "notes": {"content": "the train items have no labels"}})
    assert "No content accuracy: the train items have no labels" in page.text


def test_figures_that_do_not_apply_say_why_and_are_not_left_behind(tmp_path):
    write([fake_run(tmp_path, config=CONFIG, metrics=METRICS)])
    page = page_of(fake_run(tmp_path, Blind(), config=CONFIG, metrics=METRICS))
    assert "The method has no trained decoder, and none was fitted" in page.text
    assert "The guide is deterministic: q(z|x) has no standard deviation." in page.text
    assert "the ELBO is not defined" in page.text
    assert "no bound on log p(x)" in page.text
    assert not (tmp_path / "figures" / "samples.png").exists()
    assert (tmp_path / "figures" / "map.png").exists()


def test_vectors_without_labels(tmp_path):
    page = page_of(fake_run(tmp_path, event=(7,), labelled=False, config=CONFIG, metrics=METRICS))
    assert "Items of shape [7] are no images." in page.text
    assert "without colours" in page.text
    assert "q(z|x) of 120 test items" in page.text


def test_one_latent_dimension_and_no_test_items(tmp_path):
    page = page_of(fake_run(tmp_path, Tiny(dim=1), config=CONFIG))
    assert "z has one dimension" in page.text
    page = page_of(fake_run(tmp_path, test=None, config=CONFIG))
    assert "The data have no test items." in page.text


def test_data_that_cannot_be_read_leave_the_curves(tmp_path):
    class Lost(type(fake_run(tmp_path))):
        @property
        def data(self):
            raise DataError("tiny: not here")

        @data.setter
        def data(self, value):
            pass

    run = fake_run(tmp_path, config=CONFIG, metrics=METRICS)
    page = page_of(Lost(run.path, run.method, None, CONFIG, METRICS))
    assert "Tiny: not here." in page.text
    assert page.tags.count("img") == 5


def test_a_diverged_run_still_shows_its_curves(tmp_path):
    run = fake_run(tmp_path, config=CONFIG, metrics=[*METRICS, {"step": 30, "elbo": None, "prior": float("nan")}])
    with torch.no_grad():
        run.method.decoder.bias.fill_(float("nan"))
    assert "decoder.bias is not finite: the run has diverged" in page_of(run).text


def test_distrusts_a_run_that_gained_nothing_or_stopped_early(tmp_path):
    def lines(run, evaluation=EVALUATION):
        return " ".join(distrust(run, evaluation, {name: Drawing("", "") for name in ("samples", "map")}))

    worse = EVALUATION | {"content": CONTENT | {"knn": {"validation": 0.4, "test": 0.4, "test_best": 0.4}}}
    stopped = fake_run(tmp_path, config=CONFIG | {"steps": 50}, metrics=METRICS)
    assert "By knn this run is no better than the random encoder." in lines(stopped, worse)
    assert "The fit stopped at step 20 of 50." in lines(stopped)
    few = EVALUATION | {
        "protocol": {"sizes": {"test": 20}}
    }  # 81.2 against 49.1 % of 20 items would do, 81.2 against 79 would not
    close = few | {"random_encoder": {"content": {"linear": {"test": 0.79}, "knn": {"test": 0.1}}}}
    assert "By linear its gain over the random encoder is within the noise of 20 test items" in lines(stopped, close)
    assert "noise" not in lines(stopped, few)
    assert "the random encoder itself" in lines(fake_run(tmp_path, config=CONFIG | {"steps": 0}, metrics=[]))
    run = fake_run(tmp_path, config=CONFIG, metrics=METRICS)
    assert "no better" not in lines(run)
    assert "stopped" not in lines(run)
    assert "Best on test" in lines(run)
    assert "Best on test" not in lines(run, "not evaluated")
    failed = {
        "geometry": {"groups": {"variance": {"within": 0.3, "between": 0.1}}},
        "generation": {"mse": 0.09, "frechet": {"recall": {"samples": 0.001}}},
        "identity": {"detail": {"decoder": {"constant": 0.09}}},
    }
    for told in (
        "z varies more within groups (0.3 a dimension)",
        "(error 0.0900) are about as far off",
        "less than 1 % of the test",
    ):
        assert told in lines(run, EVALUATION | failed)
        assert told not in lines(run)
    short = CONFIG | {"steps": 20, "max_seconds": 20.0, "epochs": 100, "steps_per_epoch": 4}
    told = "Its time was over after 20 steps, 5 of 100 epochs."
    assert told in lines(fake_run(tmp_path, config=short, metrics=METRICS))
    run.method.content_scale = None
    assert "p(y) is flat" in lines(run)
    run.method.content_scale = 1.0
    assert "p(y) is flat" not in lines(run)


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    run = fake_run(tmp_path, config=CONFIG, metrics=METRICS)
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DiskError, match="disk is full"):
        write([run])
    assert (tmp_path / "report.html").read_text() == "old"


def test_the_diagram_has_a_content_only_where_the_model_has_one():
    method = Tiny()
    assert "share the content y" in diagram(method)
    assert 'dasharray="6' not in diagram(method)
    method.content = None
    assert "share the content y" not in diagram(method)
    assert 'dasharray="6' in diagram(Blind())  # nothing says how x comes from z


def test_a_run_that_cannot_be_written_is_reported_elsewhere(tmp_path, monkeypatch):
    """The page holds the figures; its folder gets none."""
    run = fake_run(tmp_path / "a", config=CONFIG, metrics=METRICS)
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != str(run.path))
    page = Page(write([run], tmp_path / "b" / "page.html").read_text())
    assert page.tags.count("img") > 5
    assert not (run.path / "figures").exists()
