"""Faster R-CNN on the feature map of a network: its losses and its detections, of batches of a fixed shape.

Source: Ren et al., Faster R-CNN, NeurIPS 2015; numbers as in torchvision's detectors, which the paper uses (appendix).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ghn_jax.checks import fields
from ghn_jax.checks.fields import Real, Several, Whole
from ghn_jax.images.imagenet import MEAN, STD
from ghn_jax.networks.convolution import Size
from ghn_jax.networks.program import Program
from ghn_jax.studies.detection import boxes as geometry
from ghn_jax.studies.detection import matching
from ghn_jax.studies.detection.backbone import feature_shape, features, resized, truncated
from ghn_jax.studies.detection.heads import ProposalHead, RegionHead
from ghn_jax.studies.detection.pictures import Scenes
from ghn_jax.studies.detection.roi_align import roi_align
from ghn_jax.studies.detection.suppression import suppress
from ghn_jax.studies.train_networks import StudyError

DetectorParams = Mapping[str, Any]
"""Of the "backbone" by name, of the "proposals" and of the "regions" as Flax has them."""

REGION_SIZE = 7
"""Rows and columns that features inside of a box are brought to."""

REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Factors on the offsets of regions."""

SMOOTH_BELOW = 1 / 9
"""The loss of offsets is quadratic below it."""

SMALLEST_SCORE = 0.05
"""Of a detection."""


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """How a detector is built.

    Attributes:
      anchor_sizes: square roots of areas, in pixels.
      anchor_ratios: of height to width.
      proposals: boxes that the first stage hands on in training; so many of the highest score are looked at, too.
      test_proposals: the same for detections.
      drawn_anchors, drawn_regions: boxes of a picture that each stage learns from.
      hidden: width of the head of the second stage.
      detections: most of a picture.

    Raises:
      StudyError: naming the field, its value and what was expected.
    """

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1, 2)
    proposals: int = 2000
    test_proposals: int = 1000
    drawn_anchors: int = 256
    drawn_regions: int = 512
    hidden: int = 1024
    detections: int = 100

    def __post_init__(self):
        many = Whole(1, 1 << 16)
        positive = Several(Real(0, 1e5, with_low=False), 1, 64)
        fields.check(
            self, StudyError, anchor_sizes=positive, anchor_ratios=positive, proposals=many, test_proposals=many,
            drawn_anchors=many, drawn_regions=many, hidden=many, detections=many,
        )  # fmt: skip


class Losses(NamedTuple):
    """Of both stages: is there an object, and where exactly."""

    objectness: jax.Array
    proposal_offsets: jax.Array
    classes: jax.Array
    region_offsets: jax.Array


class Detections(NamedTuple):
    """Boxes `[B, n, 4]` in pixels of the canvas and their scores `[B, n]`, the highest first; -inf is no box."""

    boxes: jax.Array
    scores: jax.Array


_Said = tuple[jax.Array, jax.Array]
"""Of anchors: logits `[B, n]` and offsets `[B, n, 4]`."""


class _Proposals(NamedTuple):
    """Boxes `[n, 4]` and which of them there are, bool `[n]`."""

    boxes: jax.Array
    there: jax.Array


@dataclasses.dataclass(frozen=True)
class Detector:
    """A detector of one kind of object.

    Attributes:
      program: the network whose features it looks at, up to its global pooling.
      config: how it is built.
      canvas: height and width of its images.
    """

    program: Program
    config: DetectorConfig
    canvas: Size

    @functools.cached_property
    def backbone(self) -> Program:
        """The network without its head."""
        return truncated(self.program)

    @functools.cached_property
    def _heads(self) -> tuple[ProposalHead, RegionHead]:
        anchors = len(self.config.anchor_sizes) * len(self.config.anchor_ratios)
        return ProposalHead(anchors), RegionHead(self.config.hidden)

    def init(self, params: Mapping[str, np.ndarray], seed: int) -> DetectorParams:
        """Parameters of the detector: those of the network, and random ones of the heads.

        Args:
          params: of the network, predicted or random, by name.
          seed: of the heads.

        Raises:
          StudyError: images too small for the network.
        """
        found = resized(self.backbone, params, self.canvas)
        height, width, channels = feature_shape(self.backbone, found, self.canvas)
        proposals, regions = self._heads

        @jax.jit
        def init_heads(key: jax.Array) -> dict[str, Any]:
            keys = jax.random.split(key)
            grid = jnp.zeros((1, height, width, channels))
            cut = jnp.zeros((1, 1, REGION_SIZE, REGION_SIZE, channels))
            return {
                "proposals": proposals.init(keys[0], grid)["params"],
                "regions": regions.init(keys[1], cut)["params"],
            }

        return {"backbone": jax.tree.map(jnp.asarray, found), **init_heads(jax.random.key(seed))}

    def losses(self, params: DetectorParams, batch: Scenes, key: jax.Array) -> Losses:
        """The losses of a batch.

        Args:
          params: of `init`.
          batch: pictures on this canvas.
          key: draws the boxes that are learned from.
        """
        config = self.config
        maps = self._features(params, batch)
        logits, offsets = self._said(params, maps)
        anchors = self._anchors(maps)
        keys = jax.random.split(key, (2, len(batch.pixels)))

        def first(logits, offsets, objects, present, key):
            found = matching.match(anchors, objects, present, 0.3, 0.7, each_object=True)
            drawn = matching.draw(found.labels, key, config.drawn_anchors, 0.5)
            target = geometry.encode(objects[found.objects[drawn.indices]], anchors[drawn.indices])
            are_objects = found.labels[drawn.indices] == matching.OBJECT
            return _Targets(logits[drawn.indices], offsets[drawn.indices], target, are_objects, drawn.there)

        one = jax.vmap(first)(logits, offsets, batch.boxes, batch.present, keys[0])
        objectness = _mean(
            optax.sigmoid_binary_cross_entropy(one.logits, one.are_objects.astype(jnp.float32)), one.there
        )

        proposals = self._propose(lax.stop_gradient((logits, offsets)), batch, anchors, config.proposals)

        def second(proposals, objects, present, key):
            candidates = jnp.concatenate([proposals.boxes, objects])
            there = jnp.concatenate([proposals.there, present])
            found = matching.match(candidates, objects, present, 0.5, 0.5, each_object=False)
            labels = jnp.where(there, found.labels, matching.NEITHER)
            drawn = matching.draw(labels, key, config.drawn_regions, 0.25)
            # A place that is filled up has a box, so that nothing about it is infinite; it counts for nothing.
            regions = jnp.where(drawn.there[:, None], candidates[drawn.indices], jnp.array([0.0, 0.0, 1.0, 1.0]))
            are_objects = drawn.there & (labels[drawn.indices] == matching.OBJECT)
            objects = jnp.where(are_objects[:, None], objects[found.objects[drawn.indices]], regions)
            target = geometry.encode(objects, regions, REGION_WEIGHTS)
            return regions, target, are_objects, drawn.there

        regions, target, are_objects, there = jax.vmap(second)(proposals, batch.boxes, batch.present, keys[1])
        class_logits, region_offsets = self._look_at(params, maps, regions)
        labels = are_objects.astype(jnp.int32)
        return Losses(
            objectness,
            _offset_loss(one.offsets, one.target, one.are_objects & one.there, one.there),
            _mean(optax.softmax_cross_entropy_with_integer_labels(class_logits, labels), there),
            _offset_loss(region_offsets, target, are_objects, there),
        )

    def detect(self, params: DetectorParams, batch: Scenes) -> Detections:
        """What is found on the pictures of a batch, whose boxes are not looked at."""
        config = self.config
        maps = self._features(params, batch)
        proposals = self._propose(self._said(params, maps), batch, self._anchors(maps), config.test_proposals)
        logits, offsets = self._look_at(params, maps, proposals.boxes)
        scores = jax.nn.softmax(logits)[..., 1]

        def one(proposals, offsets, scores, size):
            boxes = geometry.clip(geometry.decode(offsets, proposals.boxes, REGION_WEIGHTS), size)
            good = proposals.there & (scores > SMALLEST_SCORE) & _large_enough(boxes)
            scores = jnp.where(good, scores, -jnp.inf)
            indices, kept = suppress(boxes, scores, 0.5, config.detections)
            return Detections(boxes[indices], jnp.where(kept, scores[indices], -jnp.inf))

        return jax.vmap(one)(proposals, offsets, scores, batch.sizes)

    def _features(self, params: DetectorParams, batch: Scenes) -> jax.Array:
        """Of images, normalised and black as the mean colour where there is no picture."""
        rows, columns = (jnp.arange(side)[None] < batch.sizes[:, axis, None] for axis, side in enumerate(self.canvas))
        inside = (rows[:, :, None] & columns[:, None])[..., None]
        images = (batch.pixels / 255.0 - jnp.asarray(MEAN)) / jnp.asarray(STD)
        return features(self.backbone, params["backbone"], jnp.where(inside, images, 0))

    def _anchors(self, maps: jax.Array) -> jax.Array:
        config = self.config
        grid = maps.shape[1], maps.shape[2]
        return jnp.asarray(geometry.make_anchors(grid, self.canvas, config.anchor_sizes, config.anchor_ratios))

    def _said(self, params: DetectorParams, maps: jax.Array) -> _Said:
        """By the first stage, of all anchors."""
        return self._heads[0].apply({"params": params["proposals"]}, maps)  # pyright: ignore[reportReturnType]

    def _propose(self, found: _Said, batch: Scenes, anchors: jax.Array, count: int) -> _Proposals:
        """The best `count` boxes of the first stage, without those that overlap better ones by more than 0.7."""

        def one(logits, offsets, size):
            scores, best = lax.top_k(logits, min(count, len(logits)))
            boxes = geometry.clip(geometry.decode(offsets[best], anchors[best]), size)
            scores = jnp.where(_large_enough(boxes), scores, -jnp.inf)
            indices, kept = suppress(boxes, scores, 0.7, count)
            return _Proposals(boxes[indices], kept)

        logits, offsets = found
        return jax.vmap(one)(logits, offsets, batch.sizes)

    def _look_at(self, params: DetectorParams, maps: jax.Array, regions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits `[B, n, 2]` and offsets `[B, n, 4]` of regions `[B, n, 4]`."""
        cells = np.array([maps.shape[2] / self.canvas[1], maps.shape[1] / self.canvas[0]] * 2, np.float32)
        cut = jax.vmap(functools.partial(roi_align, size=REGION_SIZE))(maps, regions * cells)
        return self._heads[1].apply({"params": params["regions"]}, cut)  # pyright: ignore[reportReturnType]


class _Targets(NamedTuple):
    """Of drawn anchors `[n]`: what is said about them, what should be, and which of them there are."""

    logits: jax.Array
    offsets: jax.Array
    target: jax.Array
    are_objects: jax.Array
    there: jax.Array


def _large_enough(boxes: jax.Array) -> jax.Array:
    return jnp.all(boxes[..., 2:] - boxes[..., :2] >= 1e-3, axis=-1)


def _mean(values: jax.Array, there: jax.Array) -> jax.Array:
    """Over those that are there."""
    return jnp.sum(jnp.where(there, values, 0)) / jnp.maximum(jnp.sum(there), 1)


def _offset_loss(offsets: jax.Array, target: jax.Array, are_objects: jax.Array, there: jax.Array) -> jax.Array:
    """Smooth absolute error of the offsets of objects, summed, for each box that is there."""
    smooth = optax.huber_loss(offsets, jnp.where(are_objects[..., None], target, 0), delta=SMOOTH_BELOW) / SMOOTH_BELOW
    return jnp.sum(jnp.where(are_objects[..., None], smooth, 0)) / jnp.maximum(jnp.sum(there), 1)
