"""evaluate: methods without a decoder get one that is fitted to their frozen representations."""

import genssl

SETTINGS = {"limit": 96, "num_views": 2, "batch_size": 16, "epochs": 1, "progress": False}


def test_a_method_without_a_decoder_gets_one(tmp_path):
    run = genssl.fit("SimCLR", "digits", settings={"hidden": [16], "dim": 4}, out=tmp_path / "a", **SETTINGS)
    found = run.evaluate(style=False)["generation"]
    assert found["mse"] is None
    assert 0 < found["adhoc"]["mse"] < 2 * found["adhoc"]["baseline_mse"]
    assert run.evaluate(style=False, decoder=False)["generation"] == {"mse": None, "adhoc": None}
    from genssl.report import write

    run.evaluate(style=False)
    assert "fitted to its frozen representation" in write([run]).read_text()


def test_a_method_with_a_decoder_needs_none(tmp_path):
    run = genssl.fit("VAE", "digits", settings={"hidden": [16], "dim": 4}, out=tmp_path / "a", **SETTINGS)
    found = run.evaluate(style=False)["generation"]
    assert found["adhoc"] is None
    assert found["mse"] > 0
