"""Hypernetworks on the Hugging Face hub: the file of `pretrained.write` and a model card."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ghn_jax.checks.fields import Flag, Maybe, Text, taken
from ghn_jax.errors import extra
from ghn_jax.ghn.model import GHN
from ghn_jax.weights import model_card, pretrained
from ghn_jax.weights.errors import CheckpointError

WEIGHTS_FILE = "ghn.npz"
"""The file with the weights in a repository."""


class HubError(CheckpointError):
    """A hypernetwork that could not be pushed to the hub, or brought from it.

    >>> issubclass(ghn_jax.HubError, ghn_jax.CheckpointError)
    True
    """


def push_to_hub(
    ghn: GHN, repo_id: str, provenance: Mapping[str, Any], *, private: bool = False, message: str = "Weights"
) -> str:
    """Uploads a hypernetwork with a model card made of its provenance, in one commit.

    The repository is made if there is none; `ghn.npz` and `README.md` in it are replaced, other files stay.  Log in
    first (`hf auth login`, or the environment variable HF_TOKEN).

    Args:
      ghn: the hypernetwork; its weights are stored exactly, as float32.
      repo_id: "user/name".
      provenance: where the weights come from, as from `ghn_jax.provenance`.
      private: whether a new repository is.
      message: of the commit.

    Returns:
      The address of the repository.

    Raises:
      ImportError: huggingface_hub is not installed.
      CheckpointError: weights that are not finite, or a provenance that JSON cannot hold; nothing is uploaded.
      HubError: not logged in, no right to write there, a name that no repository can have, or no network.

    >>> ghn = ghn_jax.load('ghn2_cifar10')
    >>> ghn_jax.push_to_hub(ghn, 'user/name', ghn_jax.provenance('ghn2_cifar10'))  # doctest: +SKIP
    """
    if not isinstance(ghn, GHN):
        raise HubError(f"expected a GHN to push, got {type(ghn).__name__}")
    repo_id = taken(repo_id, Text(), HubError, "repo_id")
    private = taken(private, Flag(), HubError, "private")
    hub = _library()
    with tempfile.TemporaryDirectory() as folder:
        pretrained.write(Path(folder) / WEIGHTS_FILE, ghn, provenance, np.float32)
        (Path(folder) / "README.md").write_text(model_card.make(ghn, repo_id, provenance), encoding="utf-8")
        with _errors_named(repo_id, None):
            api = hub.HfApi()
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    return str(url)


def from_hub(repo_id: str, revision: str | None = None) -> GHN:
    """The hypernetwork in a repository of the hub; what is downloaded is kept, and checked as any other file.

    Args:
      repo_id: "user/name".
      revision: a branch, tag or commit; None is the newest.

    Raises:
      ImportError: huggingface_hub is not installed.
      HubError: no such repository, revision or file, no right to read it, or no network.
      CheckpointError: the file holds no hypernetwork (`pretrained.read`).

    >>> ghn = ghn_jax.from_hub('user/name')  # doctest: +SKIP
    """
    repo_id = taken(repo_id, Text(), HubError, "repo_id")
    revision = taken(revision, Maybe(Text()), HubError, "revision")
    hub = _library()
    with _errors_named(repo_id, revision):
        path = hub.hf_hub_download(repo_id, WEIGHTS_FILE, revision=revision)
    return pretrained.read(path)[0]


def _library():
    with extra("hub"):
        import huggingface_hub
    return huggingface_hub


@contextlib.contextmanager
def _errors_named(repo_id: str, revision: str | None) -> Iterator[None]:
    """One kind of error, in one sentence, for the many that the library has."""
    from huggingface_hub import errors

    where = f"{repo_id!r} on the hub"
    try:
        yield
    except errors.HFValidationError as error:
        raise HubError(f"{repo_id!r} names no repository, expected 'user/name': {_first_line(error)}") from error
    except errors.GatedRepoError as error:
        raise HubError(f"{where} is gated: ask for access on its page, and log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(f"there is no {where}, or it is private and you are not logged in (`hf auth login`)") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{where} has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(f"{where} cannot be reached (no network, or the hub is down), nor is it in the cache") from error
    except errors.EntryNotFoundError as error:
        raise HubError(f"{where} has no file {WEIGHTS_FILE}: expected a repository of ghn_jax.push_to_hub") from error
    except errors.LocalTokenNotFoundError as error:
        raise HubError(f"{where}: not logged in, run `hf auth login` or set HF_TOKEN") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            reason = "not logged in, or an invalid token" if status == 401 else "no right to do this with your token"
            raise HubError(f"{where}: {reason}; run `hf auth login` or set HF_TOKEN") from error
        raise HubError(f"{where} answered: {_first_line(error)}") from error
    except (errors.HTTPError, OSError) as error:  # pyright: ignore[reportPrivateImportUsage]  (part of its interface)
        raise HubError(f"{where} cannot be reached: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
