"""Pushing to the Hugging Face hub and bringing from it, with a folder in the place of the hub."""

import inspect
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
from torch_files import random_ghn

import ghn_jax
from ghn_jax.ghn.config import HypernetConfig
from ghn_jax.ghn.model import GHN
from ghn_jax.weights import hub, model_card, pretrained
from ghn_jax.weights.errors import CheckpointError
from ghn_jax.weights.hub import HubError

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the hub needs huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")

SMALL = HypernetConfig(max_shape=(6, 4, 3, 3), num_classes=5, weight_norm=True, ve=True, layernorm=True, hid=8)
PROVENANCE = {
    "dataset": "fashion_mnist",
    "steps": 1200,
    "licence": "MIT",
    "train_config": {"seed": 0, "decay_at": [0.5, 0.9]},
    "accuracy": {
        "what": "mean top-1 on the first 256 test images",
        "test": {"predicted": {"mean": 0.637, "best": 0.73, "networks": 500}, "he_init": {"mean": 0.096, "best": 0.14}},
        "wide": {"predicted": {"mean": 0.6}},
    },
}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A hub in a folder; calls must fit the signatures of the installed library."""
    root = tmp_path / "hub"
    commits = []
    upload_signature = inspect.signature(huggingface_hub.HfApi.upload_folder)
    create_signature = inspect.signature(huggingface_hub.HfApi.create_repo)
    download_signature = inspect.signature(huggingface_hub.hf_hub_download)

    class HfApi:
        def create_repo(self, *args, **kwargs):
            bound = create_signature.bind(self, *args, **kwargs).arguments
            huggingface_hub.utils.validate_repo_id(bound["repo_id"])
            (root / bound["repo_id"]).mkdir(parents=True, exist_ok=bound["exist_ok"])
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{bound['repo_id']}")

        def upload_folder(self, *args, **kwargs):
            bound = upload_signature.bind(self, *args, **kwargs).arguments
            assert (root / bound["repo_id"]).is_dir()
            shutil.copytree(bound["folder_path"], root / bound["repo_id"], dirs_exist_ok=True)
            commits.append(bound["commit_message"])

    def hf_hub_download(*args, **kwargs):
        bound = download_signature.bind(*args, **kwargs).arguments
        assert bound["revision"] in (None, "main")
        return str(root / bound["repo_id"] / bound["filename"])

    monkeypatch.setattr(huggingface_hub, "HfApi", HfApi)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    root.mkdir()
    (root / "commits").mkdir()
    return root, commits


def test_there_and_back(fake):
    root, commits = fake
    ghn = random_ghn(SMALL)
    url = ghn_jax.push_to_hub(ghn, "someone/ghn2", PROVENANCE)
    assert url == "https://huggingface.co/someone/ghn2" and commits == ["Weights"]
    assert sorted(path.name for path in (root / "someone" / "ghn2").iterdir()) == ["README.md", "ghn.npz"]
    for revision in (None, "main"):
        back = ghn_jax.from_hub("someone/ghn2", revision)
        assert back.config == SMALL
        jax.tree.map(np.testing.assert_array_equal, back.params, ghn.params)
    assert ghn_jax.provenance(root / "someone" / "ghn2" / "ghn.npz") == PROVENANCE
    (root / "someone" / "ghn2" / "notes.txt").write_text("mine")
    other = random_ghn(SMALL, seed=1)
    ghn_jax.push_to_hub(other, "someone/ghn2", PROVENANCE | {"steps": 2400}, message="Twice as long")
    jax.tree.map(np.testing.assert_array_equal, ghn_jax.from_hub("someone/ghn2").params, other.params)
    assert commits == ["Weights", "Twice as long"] and (root / "someone" / "ghn2" / "notes.txt").exists()


def test_the_card():
    card = model_card.make(random_ghn(SMALL), "someone/ghn2", PROVENANCE)
    header = huggingface_hub.ModelCard(card, ignore_metadata_errors=False).data.to_dict()
    assert header == {
        "license": "mit",
        "library_name": "ghn_jax",
        "tags": ["graph-hypernetwork", "parameter-prediction", "jax", "flax"],
        "datasets": ["zalando-datasets/fashion_mnist"],
    }
    assert "# GHN-2 trained on fashion_mnist" in card and 'ghn_jax.from_hub("someone/ghn2")' in card
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]
    assert ["", "mean", "best", "networks"] in rows
    assert ["test, predicted", "63.7%", "73.0%", "500"] in rows
    assert ["test, he_init", "9.6%", "14.0%", ""] in rows and ["wide, predicted", "60.0%", "", ""] in rows
    assert ["steps", "1200"] in rows and ["max_shape", "[6, 4, 3, 3]"] in rows and ["decay_at", "[0.5, 0.9]"] in rows
    assert "for 5 classes" in card and "Mean top-1 on the first 256 test images." in card


def test_a_card_makes_nothing_up():
    card = model_card.make(random_ghn(SMALL), "someone/ghn2", {})
    header = huggingface_hub.ModelCard(card).data.to_dict()
    assert set(header) == {"library_name", "tags"}
    assert "Not recorded." in card and "Nothing is recorded about its training." in card


def test_a_card_of_odd_texts():
    card = model_card.make(random_ghn(SMALL), "a/b", {"licence": "x\ny: [", "note": "a|b\n---\n<script>"})
    assert huggingface_hub.ModelCard(card).data.to_dict()["license"] == "x\ny: ["
    assert r"| note | a\|b --- &lt;script> |" in card


def test_bad_weights_are_not_pushed(fake):
    root, commits = fake
    ghn = random_ghn(SMALL)
    bad = GHN(SMALL, ghn.params | {"norm": {"bias": np.full(8, np.nan), "scale": np.ones(8)}})
    with pytest.raises(CheckpointError, match="array norm/bias has a value of nan"):
        ghn_jax.push_to_hub(bad, "someone/ghn2", PROVENANCE)
    with pytest.raises(CheckpointError, match="JSON cannot hold"):
        ghn_jax.push_to_hub(ghn, "someone/ghn2", {"path": pathlib.Path("x")})
    assert not commits and not (root / "someone").exists()


def test_what_is_downloaded_is_checked(fake):
    root, _ = fake
    ghn_jax.push_to_hub(random_ghn(SMALL), "someone/ghn2", PROVENANCE)
    file = root / "someone" / "ghn2" / "ghn.npz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="ghn.npz is damaged"):
        ghn_jax.from_hub("someone/ghn2")
    np.savez(file, weights=np.array([print], object))
    with pytest.raises(CheckpointError, match="no entry __about__"):
        ghn_jax.from_hub("someone/ghn2")


def http_error(kind, status):
    """An error of the library, as it makes them of an answer with this status."""
    http = sys.modules[errors.HTTPError.__module__.partition(".")[0]]
    request = http.Request("GET", "https://huggingface.co/api/models/someone/ghn2")
    return kind("the server says no\nand more", response=http.Response(status, request=request))


FAILURES = [
    (lambda: http_error(errors.RepositoryNotFoundError, 404), "there is no 'a/b' on the hub, or it is private"),
    (lambda: http_error(errors.GatedRepoError, 403), "'a/b' on the hub is gated: ask for access"),
    (lambda: http_error(errors.RevisionNotFoundError, 404), "'a/b' on the hub has no revision 'v2'"),
    (lambda: http_error(errors.RemoteEntryNotFoundError, 404), "'a/b' on the hub has no file ghn.npz: expected a repo"),
    (
        lambda: errors.LocalEntryNotFoundError("offline"),
        "'a/b' on the hub cannot be reached .no network, or the hub is down",
    ),
    (lambda: errors.LocalTokenNotFoundError("no token"), "'a/b' on the hub: not logged in, run `hf auth login`"),
    (
        lambda: http_error(errors.HfHubHTTPError, 401),
        "'a/b' on the hub: not logged in, or an invalid token; run `hf auth",
    ),
    (lambda: http_error(errors.HfHubHTTPError, 403), "'a/b' on the hub: no right to do this with your token"),
    (lambda: http_error(errors.HfHubHTTPError, 500), "'a/b' on the hub answered: the server says no$"),
    (lambda: errors.HTTPError("name or service not known"), "'a/b' on the hub cannot be reached: name or service"),
    (lambda: errors.OfflineModeIsEnabled("offline mode"), "'a/b' on the hub cannot be reached: offline mode"),
    (lambda: TimeoutError("timed out"), "'a/b' on the hub cannot be reached: timed out"),
]


@pytest.mark.parametrize(("make", "match"), FAILURES)
def test_failures_are_one_kind_of_error(fake, monkeypatch, make, match):
    def fails(*args, **kwargs):
        raise make()

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(HubError, match=match) as raised:
        ghn_jax.from_hub("a/b", "v2")
    assert "\n" not in str(raised.value) and isinstance(raised.value, CheckpointError)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fails)
    with pytest.raises(HubError, match="'a/b'"):
        ghn_jax.push_to_hub(random_ghn(SMALL), "a/b", {})


@pytest.mark.parametrize("repo_id", ["a b/c", "a/b/c", "", "-a/b"])
def test_names_that_no_repository_has(repo_id):
    """The library itself refuses them, before it asks the network."""
    with pytest.raises(HubError, match="names no repository, expected 'user/name'"):
        ghn_jax.from_hub(repo_id)
    with pytest.raises(HubError, match="names no repository, expected 'user/name'"):
        ghn_jax.push_to_hub(random_ghn(SMALL), repo_id, {})


def test_offline_and_not_in_the_cache(tmp_path, monkeypatch):
    """The library itself, with its switch for no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubError, match="'someone/ghn2' on the hub cannot be reached"):
        ghn_jax.from_hub("someone/ghn2")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'ghn_jax\[hub\]'"):
        ghn_jax.from_hub("someone/ghn2")
    with pytest.raises(ImportError, match=r"pip install 'ghn_jax\[hub\]'"):
        ghn_jax.push_to_hub(random_ghn(SMALL), "someone/ghn2", {})


def test_the_shipped_weights_have_a_card():
    card = model_card.make(pretrained.load(), "someone/ghn2", pretrained.about())
    accuracy = ghn_jax.load()["ghn2_fashion_mnist"].accuracy
    assert f"{accuracy:.1%}" in card and hub.WEIGHTS_FILE == "ghn.npz"
