"""Files of PyTorch, read without PyTorch: honest ones, hostile ones, damaged ones."""

import builtins
import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import needs_reference
from torch_files import (
    ORDERED,
    TENSOR,
    Built,
    Call,
    Name,
    Persistent,
    Raw,
    archived,
    pickled,
    storage,
    tensor,
    zipped,
)

import ghn_jax
from ghn_jax.weights import torch_file, torch_pickle
from ghn_jax.weights.errors import CheckpointError

VALUES = np.arange(12, dtype=np.float32)
STORAGE = {"ghn/data/0": VALUES.tobytes()}


def read(tmp_path, contents, storages=STORAGE):
    """The arrays of a dictionary of tensors, after a way through a file."""
    path = tmp_path / "file.pt"
    path.write_bytes(contents if isinstance(contents, bytes) else archived(contents, storages))
    with torch_file.opened(path) as file:
        return {name: file.array(stored) for name, stored in file.contents.items()}


def refused(tmp_path, match, contents, storages=STORAGE):
    with pytest.raises(CheckpointError, match=match):
        read(tmp_path, contents, storages)


def one(*args, **kwargs):
    return {"a": tensor("0", "FloatStorage", *args, **kwargs)}


# Honest files


def test_where_there_is_a_single_step_a_stride_means_nothing(tmp_path):
    found = read(tmp_path, {"a": tensor("0", "FloatStorage", (1, 12), elements=12, strides=(2**62, 1))})
    np.testing.assert_array_equal(found["a"], VALUES[None])


def test_views_of_one_storage(tmp_path):
    found = read(
        tmp_path,
        {
            "whole": tensor("0", "FloatStorage", (12,), 12),
            "matrix": tensor("0", "FloatStorage", (3, 4), 12),
            "transposed": tensor("0", "FloatStorage", (4, 3), 12, strides=(1, 4)),
            "part": tensor("0", "FloatStorage", (2, 2), 12, offset=5, strides=(4, 2)),
            "scalar": tensor("0", "FloatStorage", (), 12, offset=11),
        },
    )
    np.testing.assert_array_equal(found["whole"], VALUES)
    np.testing.assert_array_equal(found["matrix"], VALUES.reshape(3, 4))
    np.testing.assert_array_equal(found["transposed"], VALUES.reshape(3, 4).T)
    np.testing.assert_array_equal(found["part"], [[5, 7], [9, 11]])
    assert found["scalar"] == 11 and found["scalar"].shape == ()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", "<f8"),
        ("FloatStorage", "<f4"),
        ("HalfStorage", "<f2"),
        ("LongStorage", "<i8"),
        ("IntStorage", "<i4"),
        ("ShortStorage", "<i2"),
        ("CharStorage", "i1"),
        ("ByteStorage", "u1"),
        ("BoolStorage", "?"),
    ],
)
@pytest.mark.parametrize("order", [None, b"little", b"big"])
def test_types_and_orders_of_bytes(tmp_path, kind, dtype, order):
    values = np.array([0, 1, 1, 0] if dtype == "?" else [0, 1, 100, 7]).astype(dtype)
    if "f" in dtype:
        values = -values / 3
    stored = values.astype(values.dtype.newbyteorder(">")) if order == b"big" else values
    entries = {"ghn/data.pkl": pickled({"a": tensor("0", kind, (4,), 4)}), "ghn/data/0": stored.tobytes()}
    found = read(tmp_path, zipped(entries | ({"ghn/byteorder": order} if order else {})))["a"]
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, values)


def test_bfloat16(tmp_path):
    # 1, -2, 3.140625 and the smallest normal number.
    stored = np.array([0x3F80, 0xC000, 0x4049, 0x0080], np.uint16)
    found = read(tmp_path, {"a": tensor("0", "BFloat16Storage", (4,), 4)}, {"ghn/data/0": stored.tobytes()})["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([1, -2, 3.140625, 2.0**-126], np.float32))


def test_parameters_and_ordered_dictionaries(tmp_path):
    parameter = Call(Name("torch._utils", "_rebuild_parameter"), (one((12,), 12)["a"], True, Call(ORDERED, ())))
    path = tmp_path / "file.pt"
    versions = Built(Call(ORDERED, ()), {"_metadata": {"": {"version": 1}}})
    path.write_bytes(archived({"a": parameter, "b": versions}, STORAGE))
    with torch_file.opened(path) as file:
        np.testing.assert_array_equal(file.array(file.contents["a"]), VALUES)
        assert file.contents["b"] == {}


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 300), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(plain, st.integers(2, 5))
def test_plain_values_are_what_pickle_reads(value, protocol):
    found = torch_pickle.read(pickle.dumps(value, protocol))
    assert found == value and type(found) is type(value)


@needs_reference
def test_a_file_of_pytorch():
    with (
        torch_file.opened(reference.REFERENCE / "ghn2_cifar10.pt") as file,
        np.load(reference.REFERENCE / "ghn2_cifar10.npz") as arrays,
    ):
        stored = file.contents["state_dict"]
        assert set(stored) == set(arrays.files) - {"__config__"}
        for name in stored:
            np.testing.assert_array_equal(file.array(stored[name]), arrays[name], err_msg=name, strict=True)


# Hostile pickles


class Payload:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, os.mkdir, builtins.eval, builtins.exec, builtins.__import__])
def test_code_is_not_run(tmp_path, monkeypatch, protocol, function):
    monkeypatch.chdir(tmp_path)
    argument = {os.system: "mkdir marker", os.mkdir: "marker", builtins.__import__: "this"}.get(
        function, "__import__('os').mkdir('marker')"
    )
    pickle_bytes = pickle.dumps({"state_dict": Payload(function, argument), "config": {}}, protocol)
    refused(tmp_path, "refused the pickle", zipped({"ghn/data.pkl": pickle_bytes}))
    assert not (tmp_path / "marker").exists()
    pickle.loads(pickle_bytes)  # it would have been run
    assert (tmp_path / "marker").exists() or function is builtins.__import__


SYSTEM = Call(Name("os", "system"), ("mkdir marker",))
EVAL = Name("builtins", "eval")


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (SYSTEM, "it asks for 'os.system'"),
        (Call(EVAL, ("1",)), "it asks for 'builtins.eval'"),
        (Raw(b"\x8c\x05posix\x8c\x06system\x93"), "it asks for 'posix.system'"),
        (Raw(b"\x8c\x0ccollections \x8c\x0bOrderedDict\x93"), "it asks for 'collections..OrderedDict'"),
        (Raw(b"\x8c\x05torch\x8c\x19_utils _rebuild_tensor_v2\x93"), "which no state dictionary needs"),
        (Name("torch._utils", "_rebuild_tensor_v2.__globals__"), "it asks for 'torch._utils._rebuild_tensor_v2.__glo"),
        (Name("torch._utils", "x.__class__"), "it asks for 'torch._utils.x.__class__'"),
        (Name("torch", "FloatStorage.__class__"), "it asks for"),
        (Name("torch", "load"), "it asks for 'torch.load'"),
        (Name("numpy", "load"), "it asks for 'numpy.load'"),
        (Name("collections", "OrderedDict.__init_subclass__"), "it asks for"),
        # In the place of a tensor's arguments.
        (Call(TENSOR, (SYSTEM, 0, (1,), (1,), False, Call(ORDERED, ()))), "it asks for 'os.system'"),
        (Call(TENSOR, (storage("0", "FloatStorage", 12), 0, SYSTEM, (1,), False, Call(ORDERED, ()))), "'os.system'"),
        (Call(TENSOR, (storage("0", "FloatStorage", 12), 0, (1,), (1,), False, Call(EVAL, ("1",)))), "eval"),
        (Persistent(("storage", EVAL, "0", "cpu", 1)), "eval"),
        (Call(Call(ORDERED, ()), ()), "in the place of a Name"),
        (Call("os.system", ("mkdir marker",)), "'os.system' in the place of a Name"),
        (Call(Name("torch", "FloatStorage"), (3,)), "a call of torch.FloatStorage"),
        (Call(ORDERED, ([("a", 1)],)), "an OrderedDict with arguments"),
        (Built({}, {"__class__": 1}), "in the place of a Dictionary"),
        (Built(one((1,), 12)["a"], {"shape": (5,)}), "a Stored in the place of a Dictionary"),
        (Built(ORDERED, {"__call__": 1}), "a Name in the place of a Dictionary"),
        # Instructions that make objects in other ways.
        (Raw(b"(S'mkdir marker'\nios\nsystem\n"), "STRING"),
        (Raw(b"(ios\nsystem\n"), "the instruction INST"),
        (Raw(b"(cos\nsystem\no"), "it asks for"),
        (Raw(b"(ccollections\nOrderedDict\no"), "the instruction OBJ"),
        (Raw(b"ccollections\nOrderedDict\n)\x81"), "a new collections.OrderedDict"),
        (Raw(b"cargparse\nNamespace\n(K\x01t\x81"), "a new argparse.Namespace"),
        (Raw(b"cargparse\nNamespace\n)R"), "a call of argparse.Namespace"),
        (Raw(b"cargparse\nNamespace\n)\x81K\x01b"), "1 in the place of a dict"),
        (Raw(b"ccollections\nOrderedDict\n)}\x92"), "the instruction NEWOBJ_EX"),
        (Raw(b"\x82\x01"), "the instruction EXT1"),
        (Raw(b"P0\n"), "the instruction PERSID"),
        (Raw(b"\x97"), "the instruction NEXT_BUFFER"),
        (Raw(b"}2"), "the instruction DUP"),
    ],
)
def test_whatever_is_not_needed_is_refused(tmp_path, monkeypatch, value, match):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, match, {"a": value})
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (b"", "ends without a STOP"),
        (b".", "no arguments"),
        (b"(.", "no arguments"),
        (b"N", "ends without a STOP"),
        (b"t.", "no arguments"),
        (b"u.", "no arguments"),
        (b"}(Nu.", "a key without a value"),
        (b"}(NNu.", "None in the place of a key"),
        (b"}(\x88Nu.", "True in the place of a key"),
        (b"}())u.", r"\(\) in the place of a key"),
        (b"}(K\x01NK\x01Nu.", "the key 1 twice"),
        (b"](N(Ne.", "None in the place of a list"),
        (b"K\x01(Ne.", "1 in the place of a list"),
        (b"h\x00.", "nothing was remembered as 0"),
        (b"\x94.", "nothing to remember"),
        (b"N" + b"r\xff\xff\xff\x7f" + b"a.", "no arguments"),
        (b"\x8a\x09" + b"\xff" * 8 + b"\x7f.", "an integer of more than 64 bits"),
        (b"\x8b\xff\xff\xff\x7f.", "the instruction LONG4"),
        (b"X\xff\xff\xff\xff.", "expected 4294967295 bytes"),
        (b"\xff.", "no instruction"),
        (b"c\xff\n\xff\n.", "codec"),
        (b"c" + b"a" * 5000 + b"\nb\n.", "no newline found"),
    ],
)
def test_malformed_pickles(code, match):
    with pytest.raises(CheckpointError, match=match):
        torch_pickle.read(code)


def test_depth_and_cycles_are_harmless():
    deep = torch_pickle.read(b"\x80\x02)" + b"\x85" * 100_000 + b".")
    assert type(deep) is tuple and len(deep) == 1
    itself = torch_pickle.read(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.")
    assert itself["a"] is itself
    with pytest.raises(CheckpointError, match="a tuple in the place of a key"):
        torch_pickle.read(b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.")


# Tensors that do not lie in their storage


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (13,)},
        {"shape": (12,), "offset": 1},
        {"shape": (1,), "offset": 12},
        {"shape": (1,), "offset": -1},
        {"shape": (3,), "strides": (6,)},
        {"shape": (3,), "strides": (-1,), "offset": 5},
        {"shape": (-1,)},
        {"shape": (2, -2)},
        {"shape": (0,)},
        {"shape": (3, 4), "strides": (4,)},
        {"shape": (10**12,), "strides": (0,)},
        {"shape": (10**6, 10**6, 10**6), "strides": (0, 0, 0)},
        {"shape": (2**62, 2**62), "strides": (2**62, 2**62)},
        {"shape": (13,), "strides": (0,)},
        {"shape": [12], "strides": (1,)},
        {"shape": (12.0,), "strides": (1,)},
        {"shape": (True,), "strides": (1,)},
        {"shape": ("12",), "strides": (1,)},
        {"shape": (12,), "offset": 0.0},
        {"shape": (12,), "offset": None},
        {"shape": (1,) * 17, "strides": (1,) * 17},
        {"shape": (), "offset": 12},
    ],
)
def test_tensors_outside_of_their_storage(tmp_path, arguments):
    arguments = {"strides": None, **arguments}
    refused(tmp_path, "a tensor (whose|of shape)", {"a": tensor("0", "FloatStorage", elements=12, **arguments)})


@pytest.mark.parametrize(
    ("reference", "match"),
    [
        (("storage", Name("torch", "FloatStorage"), "0", "cpu", -1), "-1 elements"),
        (("storage", Name("torch", "FloatStorage"), "0", "cpu", True), "something else than a storage"),
        (("storage", Name("torch", "FloatStorage"), "0", "cpu", 1.0), "something else than a storage"),
        (("storage", Name("torch", "FloatStorage"), "../data.pkl", "cpu", 1), "a storage '../data.pkl'"),
        (("storage", Name("torch", "FloatStorage"), "0", "cpu"), "something else than a storage"),
        (("storage", ORDERED, "0", "cpu", 1), "something else than a storage"),
        (("storage", "torch FloatStorage", "0", "cpu", 1), "something else than a storage"),
        (("module", Name("torch", "FloatStorage"), "0", "cpu", 1), "something else than a storage"),
    ],
)
def test_references_to_something_else(tmp_path, reference, match):
    refused(tmp_path, match, {"a": Persistent(reference)})


def test_storages_of_another_size(tmp_path):
    refused(tmp_path, "has no entry 'ghn/data/0'", one((12,), 12), {})
    refused(tmp_path, "'ghn/data/0' has 47 bytes, expected 48", one((12,), 12), {"ghn/data/0": VALUES.tobytes()[:-1]})
    refused(tmp_path, "'ghn/data/0' has 49 bytes, expected at most 48", one((12,), 12), {"ghn/data/0": bytes(49)})
    refused(tmp_path, "has 48 bytes, expected 4,000,000,000,000", one((1,), 10**12))


# Archives


def test_other_files(tmp_path):
    refused(tmp_path, "damaged, or no file of weights", b"")
    refused(tmp_path, "damaged, or no file of weights", b"text" * 100)
    refused(tmp_path, "no data.pkl in it", zipped({"ghn/other.pkl": pickled({})}))
    refused(tmp_path, "no data.pkl in it", zipped({"data.pkl": pickled({})}))
    refused(tmp_path, "no data.pkl in it", zipped({}))
    refused(tmp_path, "2 files called data.pkl", zipped({"a/data.pkl": pickled({}), "b/data.pkl": pickled({})}))
    refused(tmp_path, "it is compressed", zipped({"a/data.pkl": pickled({})}, zipfile.ZIP_DEFLATED))
    refused(tmp_path, "byteorder is b'middle'", zipped({"a/data.pkl": pickled({}), "a/byteorder": b"middle"}))
    refused(tmp_path, "has 1,048,577 bytes, expected at most 1,048,576", zipped({"a/data.pkl": bytes(2**20 + 1)}))
    with pytest.raises(CheckpointError, match="no file at .*nothing.pt"), torch_file.opened(tmp_path / "nothing.pt"):
        pass
    with pytest.raises(CheckpointError, match="is a folder, expected a regular file"), torch_file.opened(tmp_path):
        pass


def test_two_entries_of_one_name(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickled({}))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/data.pkl", pickled({}))
    refused(tmp_path, "two entries called 'a/data.pkl'", buffer.getvalue())


def test_entries_that_lie_about_their_size(tmp_path):
    """A central directory may claim anything, also entries that overlap."""
    good = archived(one((12,), 12), STORAGE)
    sizes = struct.pack("<II", 48, 48)
    directory = good.rindex(sizes)
    assert good[directory - 20 : directory - 16] == b"PK\x01\x02"
    for claimed in (2**31, 2**32 - 2):
        lying = good[:directory] + struct.pack("<II", claimed, claimed) + good[directory + 8 :]
        refused(tmp_path, "its entries claim", lying)


def test_encrypted_entries(tmp_path):
    good = bytearray(archived(one((12,), 12), STORAGE))
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = good.find(signature)
        while start >= 0:
            good[start + flags] |= 1
            start = good.find(signature, start + 1)
    refused(tmp_path, "encrypted", bytes(good))


def test_files_of_old_pytorch(tmp_path):
    legacy = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    refused(tmp_path, "in the format of PyTorch before 1.6: write it again", legacy)


def test_truncated_files(tmp_path):
    good = archived(one((12,), 12), STORAGE)
    for length in range(0, len(good) - 1, 7):
        refused(tmp_path, "damaged, or no file of weights", good[:length])


# Damage at random.  What is read is then small enough, or an error of one kind.

GOOD = archived(
    {
        "a": tensor("0", "FloatStorage", (3, 4), 12),
        "b": tensor("0", "FloatStorage", (2,), 12, offset=3, strides=(5,)),
        "c": Built(Call(ORDERED, ()), {"_metadata": {"": {"version": 1}}}),
        "d": [1, 2.5, None, True, (1, 2), "text", 2**40],
    },
    STORAGE,
)
GOOD_PICKLE = zipfile.ZipFile(io.BytesIO(GOOD)).read("ghn/data.pkl")

edits = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)


def edited(good: bytes, changes, cut: int, inserted: bytes) -> bytes:
    """`good` with other bytes at some places, and some inserted or cut out at one."""
    damaged = bytearray(good)
    for place, value in changes:
        damaged[place % len(good)] = value
    start = cut % len(good)
    return bytes(damaged[:start]) + inserted + bytes(damaged[start + cut % 3 :])


def load_or_refuse(path) -> None:
    try:
        with torch_file.opened(path) as file:
            contents = file.contents
            for value in contents.values() if isinstance(contents, dict) else ():
                if isinstance(value, torch_pickle.Stored):
                    array = file.array(value)
                    assert array.shape == value.shape and array.size <= 12
                    array.sum()  # reads all of it
    except CheckpointError:
        pass


@settings(max_examples=300)
@given(edits, st.integers(0, 10**6), st.binary(max_size=2))
def test_damaged_files_are_refused_or_read(tmp_path_factory, changes, cut, inserted):
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(edited(GOOD, changes, cut, inserted))
    load_or_refuse(path)


@example([(11, 92)], 0, b"")  # an escape that no string has
@settings(max_examples=300)
@given(edits, st.integers(0, 10**6), st.binary(max_size=2))
def test_damaged_pickles_are_refused_or_read(tmp_path_factory, changes, cut, inserted):
    """As above, where the archive's checksum is right."""
    path = tmp_path_factory.getbasetemp() / "damaged_pickle.pt"
    damaged = edited(GOOD_PICKLE, changes, cut, inserted)
    path.write_bytes(zipped({"ghn/data.pkl": damaged, **STORAGE, "ghn/version": b"3\n"}))
    load_or_refuse(path)


# Storages that many tensors share


def test_a_storage_is_read_once(tmp_path):
    found = read(tmp_path, {name: tensor("0", "FloatStorage", (12,), 12) for name in "abc"})
    assert np.shares_memory(found["a"], found["b"]) and np.shares_memory(found["a"], found["c"])


def test_a_small_part_of_a_storage_takes_little_memory():
    stored = np.zeros(1 << 21, "<u2")
    stored[-1] = 0x3F80
    part = torch_pickle.Stored("0", "BFloat16Storage", 1 << 21, 0, (2,), ((1 << 21) - 1,))
    tracemalloc.start()
    try:
        found = torch_file.as_array(part, stored.data.cast("B"), "<")
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()
    assert found.tolist() == [0, 1] and found.dtype == np.float32 and not found.flags.writeable


def test_tensors_that_share_a_storage_too_often(tmp_path):
    count = 1 << 18
    tensors = {f"layer{number}": tensor("0", "FloatStorage", (count,), count) for number in range(40)}
    (tmp_path / "file.pt").write_bytes(archived(tensors, {"ghn/data/0": bytes(4 * count)}))
    graph = ghn_jax.build_graph(ghn_jax.ResNet(depths=(1,), width=8))
    with pytest.raises(CheckpointError, match=r"file.pt: its tensors take 41,943,040 bytes, but the file has 1,05"):
        ghn_jax.load_params(tmp_path / "file.pt", graph, layout="torch")


def test_a_list_of_entries_that_is_too_long(tmp_path):
    size = 1 << 25
    with open(tmp_path / "file.pt", "wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 0, 0))
    with (
        pytest.raises(CheckpointError, match="a list of entries of 33,554,432 bytes"),
        torch_file.opened(tmp_path / "file.pt"),
    ):
        pass
