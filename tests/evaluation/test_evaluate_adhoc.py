"""evaluate: methods without a decoder get one that is fitted to their frozen representations."""

import torch

import genssl
from genssl.evaluation.cache import Cache
from genssl.evaluation.kept_decoder import decoder_of, kept_decoder

SETTINGS = {"limit": 96, "num_views": 2, "batch_size": 16, "epochs": 1, "progress": False}


def test_a_method_without_a_decoder_gets_one(tmp_path):
    run = genssl.fit("SimCLR", "digits", settings={"hidden": [16], "dim": 4}, out=tmp_path / "a", **SETTINGS)
    assert run.evaluate(["generation.mse"])["generation"]["adhoc"] is None
    found = run.evaluate(["generation.mse", "generation.adhoc"])["generation"]
    assert found["mse"] is None
    assert 0 < found["adhoc"]["mse"] < 2 * found["adhoc"]["baseline_mse"]
    from genssl.report import write

    assert "fitted to its frozen representation" in write([run]).read_text()


def test_a_method_with_a_decoder_needs_none(tmp_path):
    run = genssl.fit("VAE", "digits", settings={"hidden": [16], "dim": 4}, out=tmp_path / "a", **SETTINGS)
    found = run.evaluate(["generation.mse", "generation.adhoc"])["generation"]
    assert found["adhoc"] is None
    assert found["mse"] > 0


def test_the_decoder_is_kept_and_fitted_once(tmp_path, monkeypatch):
    run = genssl.fit("SimCLR", "digits", settings={"hidden": [16], "dim": 4}, out=tmp_path / "a", **SETTINGS)
    assert kept_decoder(run, Cache(run)) is None
    decoder, figures = decoder_of(run, Cache(run))

    def again(_):
        raise AssertionError("it was fitted again")

    monkeypatch.setattr("genssl.evaluation.kept_decoder.adhoc_decoder", again)
    kept, same = decoder_of(run, Cache(run))
    z = torch.randn(5, 4)
    assert torch.equal(decoder(z), kept(z))
    assert same == figures
    path = tmp_path / "a" / "evaluation" / "adhoc_decoder.pt"
    path.write_bytes(path.read_bytes()[:-1])
    assert kept_decoder(run, Cache(run)) is None  # damaged
    with torch.no_grad():
        run.method.encoder[1].weight[0, 0] += 1
    assert kept_decoder(run, Cache(run)) is None  # of other weights
