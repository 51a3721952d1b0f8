"""Files of joblib with tensors in them, read without joblib and PyTorch: honest ones, hostile ones, damaged ones."""

import gzip
import pickle
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import (
    LOAD,
    ORDERED,
    Built,
    Call,
    Name,
    Persistent,
    Raw,
    archived,
    inline_tensor,
    joblib_bytes,
    pickled,
    storage_bytes,
)

from ghn_jax.weights import joblib_file, torch_file, torch_pickle
from ghn_jax.weights.errors import CheckpointError

VALUES = np.arange(12, dtype=np.float32)
SAVED = storage_bytes(VALUES)


def read(tmp_path, contents):
    path = tmp_path / "ghn.pt"
    path.write_bytes(contents if isinstance(contents, bytes) else pickled(contents, 4))
    with joblib_file.opened(path) as file:
        return {name: file.array(stored) for name, stored in file.contents.items()}


def refused(tmp_path, match, contents):
    with pytest.raises(CheckpointError, match=f"ghn.pt.*{match}"):
        read(tmp_path, contents)


# Honest files


def test_tensors_and_views(tmp_path):
    found = read(
        tmp_path,
        {
            "matrix": inline_tensor(SAVED, (3, 4)),
            "transposed": inline_tensor(SAVED, (4, 3), strides=(1, 4)),
            "part": inline_tensor(SAVED, (2, 2), strides=(4, 2), offset=5),
        },
    )
    np.testing.assert_array_equal(found["matrix"], VALUES.reshape(3, 4), strict=True)
    np.testing.assert_array_equal(found["transposed"], VALUES.reshape(3, 4).T)
    np.testing.assert_array_equal(found["part"], [[5, 7], [9, 11]])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_types_and_orders_of_bytes(tmp_path, order, dtype):
    values = (100 * VALUES).astype(dtype)
    found = read(tmp_path, {"a": inline_tensor(storage_bytes(values, order=order), (12,))})["a"]
    np.testing.assert_array_equal(found, values, strict=True)


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress, lambda data: zlib.compress(data, 1)])
def test_compressed_files(tmp_path, pack):
    state = {"a": VALUES, "b": VALUES.reshape(3, 4)}
    packed = pack(joblib_bytes(state))
    found = read(tmp_path, packed)
    assert joblib_file.looks_like_one(tmp_path / "ghn.pt")
    for name, values in state.items():
        np.testing.assert_array_equal(found[name], values, strict=True)


def test_protocol_4_as_python_writes_it(tmp_path):
    """Names as STACK_GLOBAL, frames and memos."""
    saved = pickle.dumps({"epoch": 3, "rate": 0.5, "names": ["a", "b"]}, 4)
    (tmp_path / "ghn.pt").write_bytes(saved)
    with joblib_file.opened(tmp_path / "ghn.pt") as file:
        assert file.contents == {"epoch": 3, "rate": 0.5, "names": ["a", "b"]} and file.size == len(saved)


def test_what_begins_like_one(tmp_path):
    path = tmp_path / "ghn.pt"
    for contents, expected in (
        (joblib_bytes({"a": VALUES}), True),
        (zlib.compress(b""), True),
        (archived({}, {}), False),
        (SAVED, False),  # what PyTorch before 1.6 wrote
        (b"text", False),
        (b"", False),
    ):
        path.write_bytes(contents)
        assert joblib_file.looks_like_one(path) is expected
    assert not joblib_file.looks_like_one(tmp_path / "nothing") and not joblib_file.looks_like_one(tmp_path)


# Hostile files: each is refused, at once, and nothing in it is run.

SYSTEM = Call(Name("os", "system"), ("mkdir marker",))

HOSTILE = {
    "a call": ({"a": SYSTEM}, "it asks for 'os.system'"),
    "a call in the place of a storage": ({"a": Call(LOAD, (SYSTEM,))}, "it asks for 'os.system'"),
    "a call in a storage": ({"a": Call(LOAD, (storage_bytes(VALUES, saved=SYSTEM),))}, "it asks for 'os.system'"),
    "a storage in a storage": (
        {"a": Call(LOAD, (storage_bytes(VALUES, saved=Call(LOAD, (SAVED,))),))},
        "it asks for 'torch.storage._load_from_bytes'",
    ),
    "a pickle in the place of a storage": ({"a": Call(LOAD, (pickled(SYSTEM),))}, "torch.save did not write"),
    "an archive in the place of a storage": ({"a": Call(LOAD, (archived(SYSTEM, {}),))}, "torch.save did not write"),
    "text in the place of a storage": ({"a": Call(LOAD, ("text",))}, "a storage that is no bytes"),
    "no storage": ({"a": Call(LOAD, ())}, "a storage that is no bytes"),
    "bytes alone": ({b"a": 1}, "in the place of a key"),
    "a list in the place of a storage": (
        {"a": Call(LOAD, (storage_bytes(VALUES, saved=[1, 2]),))},
        "a storage that is not alone",
    ),
    "two storages": ({"a": Call(LOAD, (storage_bytes(VALUES, keys=("94", "95")),))}, "a storage that is not alone"),
    "another format": ({"a": Call(LOAD, (storage_bytes(VALUES, version=1002),))}, "a format other than 1001"),
    "too few numbers": ({"a": inline_tensor(SAVED[:-1], (12,))}, "of 12 elements with 47 bytes, expected 48"),
    "too many numbers": ({"a": inline_tensor(SAVED + b"0", (12,))}, "of 12 elements with 49 bytes, expected 48"),
    "no numbers": ({"a": inline_tensor(SAVED[:-56], (12,))}, "of 12 elements with 0 bytes, expected 48"),
    "another number of numbers": (
        {"a": inline_tensor(storage_bytes(VALUES, elements=2**62), (12,))},
        "of 12 elements with 48 bytes",
    ),
    "a storage that claims to be large": (
        {
            "a": Call(
                LOAD,
                (
                    storage_bytes(
                        VALUES, saved=Persistent(("storage", Name("torch", "FloatStorage"), "94", "cpu", 2**60, None))
                    ),
                ),
            )
        },
        "of 1,152,921,504,606,846,976 elements with 48 bytes",
    ),
    "a tensor that is larger than its storage": ({"a": inline_tensor(SAVED, (13,))}, "in a storage of 12 elements"),
    "a tensor beyond its storage": ({"a": inline_tensor(SAVED, (2,), offset=11)}, "in a storage of 12 elements"),
    "a tensor that repeats its storage": (
        {"a": inline_tensor(SAVED, (2**20, 2**20), strides=(0, 0))},
        "in a storage of 12 elements",
    ),
    "state of a tensor": ({"a": Built(inline_tensor(SAVED, (12,)), {"b": 1})}, "in the place of a Dictionary"),
    "an array of NumPy": (
        Built(Call(Name("joblib.numpy_pickle", "NumpyArrayWrapper"), ()), {}),
        "it asks for 'joblib.numpy_pickle.NumpyArrayWrapper'",
    ),
    "bytes that do not end": (b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"0", "refused the pickle"),
    "more after the end": (joblib_bytes({"a": VALUES}) + b"0", "more follows after its end"),
    "no end": (joblib_bytes({"a": VALUES})[:-1], "refused the pickle"),
    "too many instructions": (b"\x80\x04" + b"N" * (1 << 18) + b".", "more than 262,144 instructions"),
    "a bomb": (zlib.compress(bytes(10**8), 9), "takes more than 16 times its size"),
    "a bomb of gzip": (gzip.compress(bytes(10**8)), "takes more than 16 times its size"),
    "damaged compression": (zlib.compress(joblib_bytes({"a": VALUES}))[:-3], "does not end where the file does"),
    "two compressed parts": (2 * zlib.compress(joblib_bytes({"a": VALUES})), "does not end where the file does"),
    "noise": (b"\x78\x9c" + bytes(range(200)), "damaged, or no file of weights"),
    "a frame that lies": (Raw(b"\x95" + (2**40).to_bytes(8, "little")), "refused the pickle"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    contents, match = HOSTILE[kind]
    refused(tmp_path, match, contents)
    assert [path.name for path in tmp_path.iterdir()] == ["ghn.pt"]


def test_storages_within_are_of_joblib_alone(tmp_path):
    (tmp_path / "ghn.pt").write_bytes(archived({"a": inline_tensor(SAVED, (12,))}, {}))
    with (
        pytest.raises(CheckpointError, match="it asks for 'torch.storage._load_from_bytes'"),
        torch_file.opened(tmp_path / "ghn.pt"),
    ):
        pass


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="no file at .*nothing.pt"), joblib_file.opened(tmp_path / "nothing.pt"):
        pass


GOOD = pickled(
    {
        "a": inline_tensor(SAVED, (3, 4)),
        "b": inline_tensor(storage_bytes(VALUES.astype(np.float16)), (2,), strides=(5,), offset=3),
        "c": Built(Call(ORDERED, ()), {"_metadata": {"": {"version": 1}}}),
    },
    4,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_damaged_files_are_refused_or_read(tmp_path_factory, changes, cut, shorter):
    damaged = bytearray(GOOD)
    for place, value in changes:
        damaged[place % len(GOOD)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.joblib"
    path.write_bytes(bytes(damaged[: cut % len(GOOD)] if shorter else damaged))
    try:
        with joblib_file.opened(path) as file:
            for value in file.contents.values() if isinstance(file.contents, dict) else ():
                if isinstance(value, torch_pickle.Stored):
                    assert file.array(value).shape == value.shape and file.array(value).size <= 24
    except CheckpointError:
        pass
