"""`jaxgen reproduce`: verdicts of any kind are a success, a broken invariant is not, and the ledger remembers."""

import json

import pytest

from jaxgen import cli
from jaxgen.reproduce import claim, claims


def draw(path):
    with open(path, "wb") as file:
        file.write(b"picture")


def entry(value, interval, heard=None):
    def run(place):
        if heard is not None:
            heard.append(place)
        place.done()
        figure = claim.Figure(claim.Bar("ratio", "2.9", low=1.3), value, interval)
        return claim.Outcome((figure,), ("width 64: 1",), {"losses": [1.0]}, 12.4, draw)

    return claim.Claim("a-claim", "Wider is better.", "arXiv 0000.00000", "2.9 ×", run)


def plant(monkeypatch, planted):
    monkeypatch.setattr(claims, "CLAIMS", {planted.name: planted})


@pytest.mark.parametrize(
    "value, interval, verdict",
    [
        (1.5, (1.4, 1.6), "holds"),
        (1.1, (1.0, 1.2), "does not hold"),
        (1.3, (1.2, 1.4), "inconclusive"),
        (float("nan"), (float("nan"),) * 2, "inconclusive"),
    ],
)
def test_any_verdict_is_written_and_ends_with_code_0(value, interval, verdict, tmp_path, monkeypatch, capsys):
    plant(monkeypatch, entry(value, interval))
    folder = ["--folder", str(tmp_path / "ledger")]
    assert cli.main(["reproduce", "a-claim", *folder, "--json", str(tmp_path / "found.json")]) == 0
    shown = capsys.readouterr().out
    assert "Wider is better." in shown and "paper: 2.9" in shown and f"bar ≥ 1.3: {verdict}" in shown
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["verdict"] == verdict and found == json.loads((tmp_path / "ledger" / "a-claim.json").read_text())
    assert (tmp_path / "ledger" / "a-claim.png").read_bytes() == b"picture"
    assert cli.main(["reproduce", "--list", *folder]) == 0
    shown = capsys.readouterr().out
    assert f"a-claim: {verdict}\n" in shown and "2.9 ×" in shown and f"ratio: {value:.3g}" in shown and "seconds: 12" in shown


def test_a_claim_that_was_not_run_is_listed_as_such(tmp_path, capsys):
    assert cli.main(["reproduce", "--list", "--folder", str(tmp_path / "nowhere")]) == 0
    shown = capsys.readouterr().out
    for name in ("mup-transfer", "mup-proxy-beats-baseline"):
        assert f"{name}: not run" in shown
    assert not (tmp_path / "nowhere").exists()


def test_other_options_are_handed_on_and_remembered(tmp_path, monkeypatch, capsys):
    heard = []
    plant(monkeypatch, entry(1.5, (1.4, 1.6), heard))
    folder = ["--folder", str(tmp_path)]
    assert cli.main(["reproduce", "a-claim", *folder, "--set", "training.steps=7"]) == 0
    assert heard[0].overrides == ("training.steps=7",)
    assert cli.main(["reproduce", "--list", *folder]) == 0
    assert "a-claim: holds (with training.steps=7)" in capsys.readouterr().out


def test_a_broken_invariant_ends_with_code_1_and_no_verdict(tmp_path, monkeypatch, capsys):
    def run(place):
        raise claim.InvariantFailed("1 is not 1")

    plant(monkeypatch, claim.Claim("a-claim", "", "", "", run))
    assert cli.main(["reproduce", "a-claim", "--folder", str(tmp_path)]) == 1
    assert "1 is not 1" in capsys.readouterr().err
    assert not (tmp_path / "a-claim.json").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "CLAIM: found None"),
        (("mup-transfr",), "CLAIM: found 'mup-transfr', needed one of mup-transfer, "),
        (("mup-transfer", "--list"), "CLAIM: found 'mup-transfer'"),
        (("mup-transfer", "--set", "model.widht=3"), "model.widht: found '3'"),
    ],
)
def test_bad_input_ends_with_code_2(arguments, said, tmp_path, capsys):
    assert cli.main(["reproduce", *arguments, "--folder", str(tmp_path)]) == 2
    assert f"jaxgen: {said}" in capsys.readouterr().err


def test_every_claim_is_listed_under_its_own_name():
    assert {name: found.name for name, found in claims.CLAIMS.items()} == {name: name for name in claims.CLAIMS}
