"""The published accuracies of the networks of DeepNets-1M, from the files beside the original's code.

They belong to the published graphs and to no other draw of the splits, so they are checked against the networks that
they are joined with.  Accuracies are in percent; those of GHNs on split "val" are on validation images.

Source: `results_cifar10.json`, `results_imagenet.json` and `results_cifar10_extended.json` of the original.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ghn_jax.checks import files
from ghn_jax.checks.fields import Real, Several, taken
from ghn_jax.studies.properties import Networks
from ghn_jax.studies.train_networks import StudyError

PUBLISHED_SPLITS = ("val", "test", "wide", "deep", "dense", "bnfree", "predefined")

COMPLETE = ("val", "test")
"""Splits of the extended file whose fields are all their own; in the others most are copies of those of one network."""

KEPT = ("params", "time", "test_acc", "ghn1_test_acc", "ghn2_test_acc")
"""Fields that are right in all splits of the extended file."""

_PROPERTIES = {
    "val_acc": "accuracy",
    "val_acc_noise": "noisy_accuracy",
    "time": "time",
    "converge_time": "convergence",
}
_BASELINES = {
    "params": "parameters",
    "ghn2_test_acc": "accuracy of GHN-2",
    "ghn1_test_acc": "accuracy of GHN-1",
    "mlp_test_acc": "accuracy of the MLP",
}
_MOST_BYTES = 1 << 27
_INDEX = re.compile("0|[1-9][0-9]{0,8}")
_ONE = Several(Real(-1e15, 1e15), 1, 1)

PublishedResult = dict[str, Any]
"""Numbers of a network by field; in the extended file lists, over epochs."""


def read(path: str | os.PathLike) -> dict[str, dict[int, PublishedResult]]:
    """Entries by split and index; fields of the extended file that are faulty are left out.

    Raises:
      StudyError: no such file, or one of another form, naming the first place that is not as expected.
    """
    try:
        found = files.parse_json(files.read_regular(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read as published results: {error}") from error
    expected = f"expected splits, such as {', '.join(PUBLISHED_SPLITS[:3])}, of entries by index"
    if not isinstance(found, dict) or not found or not found.keys() <= set(PUBLISHED_SPLITS):
        raise StudyError(f"{path}: {expected}")
    results: dict[str, dict[int, PublishedResult]] = {}
    for split, entries in found.items():
        if not isinstance(entries, dict):
            raise StudyError(f"{path}, {split}: {expected}")
        for index, entry in entries.items():
            if not _INDEX.fullmatch(index) or not isinstance(entry, dict) or type(entry.get("params")) is not int:
                raise StudyError(f"{path}, {split}, {index!r}: expected a number, and an entry with integer 'params'")
            extended = any(isinstance(value, list) for value in entry.values())
            kept = entry if split in COMPLETE or not extended else {k: entry[k] for k in KEPT if k in entry}
            results.setdefault(split, {})[int(index)] = kept
    return results


def check_results(results: Mapping[str, Mapping[int, PublishedResult]], params: Mapping[str, Sequence[int]]) -> None:
    """Checks that results are those of these networks.

    Args:
      results: from `read`.
      params: numbers of parameters as the original counts them, by split, in the order of the indices.

    Raises:
      StudyError: another number of networks, or the first network with another number of parameters.
    """
    for split, counts in params.items():
        entries = results.get(split, {})
        if sorted(entries) != list(range(len(counts))):
            raise StudyError(f"{split}: {len(entries)} published results for {len(counts)} networks")
        for index, count in enumerate(counts):
            if entries[index]["params"] != count:
                raise StudyError(
                    f"{split}/{index} has {count:,} parameters, in the published results {entries[index]['params']:,}: "
                    "expected the networks of the published files"
                )


def networks(results: Mapping[str, Mapping[int, PublishedResult]], splits: Sequence[str] = COMPLETE) -> Networks:
    """Properties and baselines for `properties.compare`, by network such as "val/3".

    Of lists over epochs the last value is taken.

    Raises:
      StudyError: a split that is not there, or a network that lacks a property, or has one that is no number.
    """
    found = Networks({what: {} for what in _PROPERTIES.values()}, {title: {} for title in _BASELINES.values()})
    for split in splits:
        if split not in results:
            raise StudyError(f"there are no published results of {split}: expected one of {', '.join(results)}")
        for index, entry in results[split].items():
            for fields, into in ((_PROPERTIES, found.properties), (_BASELINES, found.baselines)):
                for field, title in fields.items():
                    if field not in entry and into is found.properties:
                        raise StudyError(f"{split}/{index} has no {field}: expected all of {', '.join(_PROPERTIES)}")
                    if field in entry:
                        value = entry[field][-1:] if isinstance(entry[field], list) else [entry[field]]
                        (number,) = taken(value, _ONE, StudyError, f"{split}/{index}, {field}")
                        into[title][f"{split}/{index}"] = float(number)
    return Networks(found.properties, {title: values for title, values in found.baselines.items() if values})
