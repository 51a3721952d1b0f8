"""From an architecture to its program: the builders of networks of cells and of residual networks."""

from __future__ import annotations

import functools
from typing import NamedTuple

from ghn_jax.networks import architecture as arch
from ghn_jax.networks import primitives as ops
from ghn_jax.networks.architecture import AnyArchitecture, Architecture, ArchitectureError, ResNet, Task
from ghn_jax.networks.program import INPUT, Instruction, Program
from ghn_jax.networks.regularization import AuxiliaryPool, DropPath


@functools.cache
def _same(cls: type[ops.Primitive], *fields, **options) -> ops.Primitive:
    """`cls(*fields, **options)`, always the same object: primitives recur, and keep what was worked out for them."""
    return cls(*fields, **options)


Layers = tuple[tuple[ops.Primitive, str], ...]
"""Primitives that follow each other, each with the end of the scope of its tensors."""


def _conv(inputs, outputs, kernel, *, stride: int | tuple[int, int] = 1, padding=None, **options) -> ops.Primitive:
    """A dense or depthwise convolution, by default padded to keep the size."""
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    stride = stride if isinstance(stride, tuple) else (stride, stride)
    padding = (kernel[0] // 2, kernel[1] // 2) if padding is None else padding
    return _same(ops.Conv, inputs, outputs, kernel, stride, padding, **options)


def _norm(norm: str | None, channels: int, end: str) -> Layers:
    """The normalisation after a convolution, if there is any."""
    return () if norm is None else ((_same(ops.BatchNorm, channels), end),)


@functools.cache
def _chain(operation: str, inputs: int, channels: int, stride: int, norm: str | None) -> Layers:
    """The layers of an operation of a cell that just follow each other."""
    match operation.split("_"):
        case ["max", "pool", "3x3"]:
            return ((_same(ops.MaxPool, 3, stride), ""),)
        case ["avg", "pool", "3x3"]:
            return ((_same(ops.AvgPool, 3, stride), ""),)
        case ["conv", "7x1", "1x7"]:  # each strides its own axis
            return (
                (_conv(inputs, channels, (1, 7), stride=(1, stride), relu=True), ".op.1"),
                (_conv(channels, channels, (7, 1), stride=(stride, 1)), ".op.2"),
                *_norm(norm, channels, ".op.3"),
            )
        case ["conv", size]:
            conv = _conv(inputs, channels, int(size[0]), stride=stride, relu=True)
            return ((conv, ".op.1"), *_norm(norm, channels, ".op.2"))
        case ["sep", "conv", size]:  # a depthwise and a 1x1 convolution, twice
            layers: list[tuple[ops.Primitive, str]] = []
            for position, strides in ((1, stride), (5, 1)):
                depthwise = _conv(channels, channels, int(size[0]), stride=strides, relu=True, depthwise=True)
                layers += [(depthwise, f".op.{position}"), (_conv(channels, channels, 1), f".op.{position + 1}")]
                layers += _norm(norm, channels, f".op.{position + 2}")
            return tuple(layers)
        case ["dil", "conv", size]:  # a depthwise convolution with holes and a 1x1 convolution
            kernel = int(size[0])
            depthwise = _conv(
                channels, channels, kernel, stride=stride, padding=(kernel - 1,) * 2, relu=True, dilation=2,
                depthwise=True,
            )  # fmt: skip
            return (
                (depthwise, ".op.1"),
                (_conv(channels, channels, 1), ".op.2"),
                *_norm(norm, channels, ".op.3"),
            )
    raise ArchitectureError(f"unknown primitive {operation!r}")


_ADD, _CONCAT, _DROP_PATH = ops.Add(), ops.Concat(), DropPath()


class _Builder:
    """Collects instructions; a state is a register or None ('none' edges leave no state)."""

    def __init__(self, task: Task):
        self.task = task
        self.instructions: list[Instruction] = []
        self.shapes: list[ops.Shape] = [(task.image_size, task.image_size, 3)]
        self.unfed: list[tuple[ops.Primitive, str]] = []

    def shape(self, register: int | None) -> ops.Shape:
        """The shape of a state that is there."""
        assert register is not None
        return self.shapes[register]

    def add(self, primitive: ops.Primitive, *inputs: int | None, scope: str = "") -> int | None:
        known = self.shapes
        shapes = tuple([None if register is None else known[register] for register in inputs])
        if not any(shapes):
            self.unfed.append((primitive, scope))
            return None
        shape = primitive.known_output_shape(shapes)
        if min(shape) < 1:
            self.refuse_empty(scope, primitive, shape)
        self.instructions.append(Instruction(primitive, inputs, scope, shape))
        known.append(shape)
        return len(self.instructions)

    def refuse_empty(self, scope: str, primitive: ops.Primitive, shape: ops.Shape) -> None:
        """Raises ArchitectureError: an activation without pixels."""
        raise ArchitectureError(
            f"{scope or type(primitive).__name__}: {self.task.image_size}x{self.task.image_size} images are too small, "
            f"an activation of shape {shape} would be empty"
        )

    def operation(self, x: int | None, scope: str, *operation) -> int | None:
        """Adds the layers of `_block(*operation)`, which read `x`."""
        block = _block(*operation, None if x is None else self.shapes[x])
        if x is None:
            self.unfed += [(primitive, scope + end if end is not None else "") for primitive, end in block.unfed]
            return None
        instructions, before = self.instructions, len(self.instructions)
        for primitive, inputs, end, shape in block.layers:
            if len(inputs) == 1:  # nearly all layers
                inputs = (inputs[0] + before if inputs[0] else x,)
            else:
                inputs = tuple([register + before if register else x for register in inputs])
            instructions.append(Instruction(primitive, inputs, scope + end if end is not None else "", shape))
        if block.empty:
            layer = next(layer for layer in instructions[before:] if min(layer.shape) < 1)
            self.refuse_empty(layer.scope, layer.primitive, layer.shape)
        self.shapes += block.shapes
        return len(instructions)

    def finish(self, output: int | None) -> Program:
        if output is None:
            raise ArchitectureError("disconnected network: no path leads from the images to the logits")
        read = {register for instruction in self.instructions for register in instruction.inputs} - {None}
        if len(read) == output == len(self.instructions):  # every register but the output is read: nothing is dead
            return Program(self.task, tuple(self.instructions), tuple(self.unfed))
        live = [False] * output + [True]
        for register in range(output, INPUT, -1):
            if live[register]:
                for before in self.instructions[register - 1].inputs:
                    if before is not None:
                        live[before] = True
        renumber: dict[int | None, int | None] = {None: None, INPUT: INPUT}
        kept, dead = [], self.unfed
        for register, (primitive, inputs, scope, shape) in enumerate(self.instructions, start=1):
            if live[register]:
                kept.append(Instruction(primitive, tuple([renumber[read] for read in inputs]), scope, shape))
                renumber[register] = len(kept)
            else:
                dead.append((primitive, scope))
        return Program(self.task, tuple(kept), tuple(dead))


class _Counter(_Builder):
    """Counts parameters and makes no instructions."""

    def __init__(self, task: Task):
        super().__init__(task)
        self.num_params = 0

    def add(self, primitive: ops.Primitive, *inputs: int | None, scope: str = "") -> int | None:
        self.num_params += primitive.num_params
        shapes = tuple([None if register is None else self.shapes[register] for register in inputs])
        if not any(shapes):
            return None
        self.shapes.append(primitive.known_output_shape(shapes))
        return len(self.shapes) - 1

    def operation(self, x: int | None, scope: str, *operation) -> int | None:
        block = _block(*operation, None if x is None else self.shapes[x])
        self.num_params += block.num_params
        if x is None:
            return None
        self.shapes.append(block.shapes[-1])
        return len(self.shapes) - 1


class _Block(NamedTuple):
    """The layers of an operation of a cell: made once and copied to wherever the operation is.

    Attributes:
      layers: primitives with their inputs, the end of their scope (None: they have no scope) and the shape of their
        output; input 0 is that of the block, `i` is the output of its layer `i - 1`.
      unfed: primitives with the end of their scope; all of them, if the block has no input.
      shapes: of the layers' outputs.
      num_params: of all primitives together.
      empty: a shape has no pixels.
    """

    layers: tuple[tuple[ops.Primitive, tuple[int | None, ...], str | None, ops.Shape], ...]
    unfed: tuple[tuple[ops.Primitive, str | None], ...]
    shapes: tuple[ops.Shape, ...]
    num_params: int
    empty: bool


class _BlockBuilder(_Builder):
    """Collects the layers of a block; whether an activation is empty is for the network to say that has the block."""

    def __init__(self, shape: ops.Shape | None):
        super().__init__(Task())
        self.shapes = [] if shape is None else [shape]

    def refuse_empty(self, scope: str, primitive: ops.Primitive, shape: ops.Shape) -> None:
        pass


_HERE = "@"
"""Stands for the scope of a block while it is made."""


@functools.lru_cache(maxsize=1 << 14)
def _block(
    operation: str, inputs: int, channels: int, stride: int, norm: str | None, shape: ops.Shape | None
) -> _Block:
    """An operation after an activation of this shape, or after none."""
    builder = _BlockBuilder(shape)
    x = None if shape is None else INPUT
    match operation:
        case "skip_connect":
            _factorized_reduce(builder, x, _HERE, inputs, channels, norm)
        case "msa":
            _transformer(builder, x, _HERE, channels)
        case "cse":
            _channel_excitation(builder, x, _HERE, channels, stride)
        case _:
            for primitive, end in _chain(operation, inputs, channels, stride, norm):
                x = builder.add(primitive, x, scope=f"{_HERE}{end}")

    def end_of(scope: str) -> str | None:
        return scope.removeprefix(_HERE) if scope else None

    layers = [(primitive, inputs, end_of(scope), shape) for primitive, inputs, scope, shape in builder.instructions]
    unfed = [(primitive, end_of(scope)) for primitive, scope in builder.unfed]
    return _Block(
        tuple(layers),
        tuple(unfed),
        tuple(builder.shapes[1:]),
        sum(primitive.num_params for primitive, *_ in (*layers, *unfed)),
        any(min(shape) < 1 for _, _, _, shape in layers),
    )


def _factorized_reduce(builder: _Builder, x, scope, inputs, channels, norm):
    """Halves the size by two strided 1x1 convolutions, over the even and over the odd pixels."""
    even, odd = (
        builder.add(
            _conv(inputs, channels // 2, 1, stride=2, relu=True, skip_first=half == 2), x, scope=f"{scope}.conv_{half}"
        )
        for half in (1, 2)
    )
    x = builder.add(_CONCAT, even, odd)
    for primitive, end in _norm(norm, channels, ".bn"):
        builder.add(primitive, x, scope=f"{scope}{end}")


def _transformer(builder: _Builder, x, scope, channels):
    """A pre-norm transformer layer over the pixels (Dosovitskiy et al. 2021)."""
    add = builder.add
    normed = add(_same(ops.LayerNorm, channels), x, scope=f"{scope}.ln1")
    qkv = add(_same(ops.Linear, channels, 3 * channels, bias=False), normed, scope=f"{scope}.to_qkv")
    out = add(_same(ops.Attention, arch.ATTENTION_HEADS), qkv)
    out = add(_same(ops.Linear, channels, channels), out, scope=f"{scope}.to_out.0")
    out = None if x is None else add(_ADD, out, x)
    hidden = add(_same(ops.LayerNorm, channels), out, scope=f"{scope}.ln2")
    hidden = add(_same(ops.Linear, channels, channels), hidden, scope=f"{scope}.ff.net.0")
    hidden = add(_same(ops.Linear, channels, channels, activation="gelu"), hidden, scope=f"{scope}.ff.net.3")
    if x is not None:
        add(_ADD, hidden, out)


def _channel_excitation(builder: _Builder, x, scope, channels, stride):
    """Squeeze-and-excitation with a reduction ratio of 2."""
    add = builder.add
    excitation = add(_same(ops.Squeeze), x)
    squeezed = channels // 2
    excitation = add(_same(ops.Linear, channels, squeezed), excitation, scope=f"{scope}.fc1")
    excitation = add(_same(ops.Linear, squeezed, channels, activation="relu"), excitation, scope=f"{scope}.fc2")
    if x is not None:
        add(_same(ops.Excite, stride), x, excitation)


def lower(architecture: AnyArchitecture, task: Task) -> Program:
    """The instructions of `architecture` applied to `task`.

    Raises:
      ArchitectureError: no path from the images to the logits, or images too small for the network.
    """
    if not isinstance(task, Task):
        raise ArchitectureError(f"expected a Task, got {type(task).__name__}")
    builder = _Builder(task)
    return builder.finish(_build(builder, architecture))


def lower_regularized(architecture: AnyArchitecture, task: Task) -> Program:
    """The same network as DARTS trains it: with paths that may be dropped and an auxiliary head.

    Every operation of a cell but the identity is followed by `DropPath`.  The output has twice as many columns as there
    are classes: the logits, and those of the auxiliary head, which reads the cell at two thirds of the network.  The
    network's own tensors have the names that they have in `lower`; the others are called "auxiliary_head...".

    Raises:
      ArchitectureError: as for `lower`; or a network that is not made of cells, or of too few pixels for the head.

    Source: Liu et al., DARTS, ICLR 2019, section 3.2 and its code.
    """
    if not isinstance(architecture, Architecture):
        raise ArchitectureError(f"only networks of cells have paths to drop, got a {type(architecture).__name__}")
    builder = _Builder(task)
    return builder.finish(_Cells(builder, architecture, regularized=True).network())


def count_params(architecture: AnyArchitecture, task: Task) -> int:
    """`lower(architecture, task).num_params_with_unused` in half the time, for networks known to be connected."""
    counter = _Counter(task)
    _build(counter, architecture)
    return counter.num_params


def _build(builder: _Builder, architecture: AnyArchitecture) -> int | None:
    if isinstance(architecture, ResNet):
        return _resnet(builder, architecture)
    if isinstance(architecture, Architecture):
        return _Cells(builder, architecture).network()
    raise ArchitectureError(f"expected an Architecture or a ResNet, got {type(architecture).__name__}")


class _Cells:
    """Lowers a network of cells; methods append the layers of one part and return the register they end in."""

    def __init__(self, builder: _Builder, architecture: Architecture, regularized: bool = False):
        self.builder = builder
        self.arch = architecture
        self.has_attention = architecture.has_attention
        self.regularized = regularized
        self.large = builder.task.large_images

    def network(self) -> int | None:
        a = self.arch
        s0, s1 = self.stem()
        reduced_before = a.stem_type == 1 and not self.has_attention
        inputs = [self.channels(s0), self.channels(s1)]
        channels, auxiliary = a.C, None
        for cell in range(a.n_cells):
            reduces = a.reduces(cell)
            if reduces:
                channels *= a.C_mult
            s0, s1 = s1, self.cell(cell, s0, s1, inputs, channels, reduces, reduced_before)
            inputs = [inputs[1], len(a.genotype.normal_concat) * channels]
            reduced_before = reduces and not self.has_attention
            if self.regularized and cell == 2 * a.n_cells // 3:
                auxiliary = self.auxiliary_head(s1)
        logits = self.head(s1)
        return self.builder.add(_CONCAT, logits, auxiliary) if self.regularized and logits is not None else logits

    def channels(self, register: int | None) -> int:
        return self.builder.shape(register)[-1]

    def conv(self, x, scope, inputs, outputs, kernel, **options):
        return self.builder.add(_conv(inputs, outputs, kernel, **options), x, scope=scope)

    def norm(self, x, scope, channels):
        for primitive, _ in _norm(self.arch.norm, channels, ""):
            x = self.builder.add(primitive, x, scope=scope)
        return x

    def relu_conv_norm(self, x, scope, inputs, channels):
        """A 1x1 convolution at the input of a cell."""
        return self.builder.operation(x, scope, "conv_1x1", inputs, channels, 1, self.arch.norm)

    def stem(self) -> tuple[int | None, int | None]:
        """The stem's two outputs, the inputs of the first cell."""
        a, add = self.arch, self.builder.add
        if self.has_attention:
            patch = 16 if self.large else 3
            x = self.conv(INPUT, "stem0", 3, a.C, patch, stride=patch, padding=(0, 0) if self.large else (1, 1))
            height, width, _ = self.builder.shape(x)
            if (height, width) != ((14, 14) if self.large else (11, 11)):
                raise ArchitectureError(
                    f"networks with msa have positional encodings for {'224x224' if self.large else '32x32'} images, "
                    f"got Task.image_size={self.builder.task.image_size}"
                )
            x = add(_same(ops.PositionalEncoding, (height, width), a.C), x, scope="pos_enc")
            return x, x
        if a.stem_type == 0:
            channels = a.C * (3 if a.preproc and not self.large else 1)
            x = self.conv(INPUT, "stem.0", 3, channels, a.ks, stride=4 if self.large else 1)
            x = self.norm(x, "stem.1", channels)
            if a.stem_pool:
                x = add(_same(ops.MaxPool, 3, 2), x)
            return x, x
        stride = 2 if self.large else 1
        x = self.conv(INPUT, "stem0.0", 3, a.C // 2, a.ks, stride=stride)
        x = self.norm(x, "stem0.1", a.C // 2)
        x = self.conv(x, "stem0.3", a.C // 2, a.C, 3, stride=stride, relu=True)
        s0 = self.norm(x, "stem0.4", a.C)
        s1 = self.conv(s0, "stem1.1", a.C, a.C, 3, stride=2, relu=True)
        return s0, self.norm(s1, "stem1.2", a.C)

    def cell(self, index, s0, s1, inputs, channels, reduces, reduced_before) -> int | None:
        """One cell; either input may be absent, `inputs` are the channels they would have."""
        a = self.arch
        scope = f"cells.{index}"
        if a.preproc:
            if reduced_before:
                s0 = self.builder.operation(s0, f"{scope}.preprocess0", "skip_connect", inputs[0], channels, 2, a.norm)
            else:
                s0 = self.relu_conv_norm(s0, f"{scope}.preprocess0", inputs[0], channels)
            s1 = self.relu_conv_norm(s1, f"{scope}.preprocess1", inputs[1], channels)
        elif reduced_before and s0 is not None:
            s0 = self.builder.add(_same(ops.Subsample, 2), s0)
        edges = a.genotype.reduce if reduces else a.genotype.normal
        concat = a.genotype.reduce_concat if reduces else a.genotype.normal_concat
        states = [s0, s1]
        strides = reduces and not self.has_attention
        terms = []
        for edge, (primitive, state) in enumerate(edges):
            stride = 2 if strides and state < 2 else 1
            term = self.edge(primitive, states[state], f"{scope}._ops.{edge}", channels, stride)
            if self.regularized and not (primitive == "skip_connect" and stride == 1):
                term = self.builder.add(_DROP_PATH, term)
            terms.append(term)
            if edge % 2:
                first, second = terms[-2:]
                if first is not None and second is not None:
                    first = self.builder.add(_ADD, first, second)
                states.append(second if first is None else first)
        outputs = [states[i] for i in concat]
        return outputs[0] if len(outputs) == 1 else self.builder.add(_CONCAT, *outputs)

    def edge(self, primitive, x, scope, channels, stride) -> int | None:
        """One operation of a cell; `x` may be absent, then its tensors count as unused."""
        if primitive == "none":
            return None
        if primitive == "skip_connect" and stride == 1:
            return x
        return self.builder.operation(x, scope, primitive, channels, channels, stride, self.arch.norm)

    def auxiliary_head(self, x) -> int:
        """Logits of a small network of its own."""
        add, scope = self.builder.add, "auxiliary_head"
        if x is None:
            raise ArchitectureError(f"{scope}: no path leads from the images to the cell that it reads")
        height, width, channels = self.builder.shape(x)
        if height < 2:
            raise ArchitectureError(
                f"{scope}: it needs at least 2x2 pixels, the cell that it reads has {height}x{width}"
            )
        x = add(AuxiliaryPool(height), add(ops.Relu(), x))
        x = self.norm(self.conv(x, f"{scope}.features.2", channels, 128, 1), f"{scope}.features.3", 128)
        x = self.conv(x, f"{scope}.features.5", 128, 768, 2, padding=(0, 0), relu=True)
        x = add(ops.Flatten(), self.norm(x, f"{scope}.features.6", 768))
        classifier = ops.Linear(768, self.builder.task.num_classes, activation="relu", classifier=True)
        logits = add(classifier, x, scope=f"{scope}.classifier")
        assert logits is not None
        return logits

    def head(self, x) -> int | None:
        a, add = self.arch, self.builder.add
        if x is None:
            return None
        x = add(_same(ops.GlobalAvgPool if a.glob_avg else ops.Flatten), x)
        widths = [self.channels(x), *[a.fc_dim] * (a.fc_layers - 1), self.builder.task.num_classes]
        for layer, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            primitive = _same(
                ops.Linear,
                inputs,
                outputs,
                activation="relu" if layer else None,
                dropout=layer > 0,
                classifier=layer == a.fc_layers - 1,
            )
            x = add(primitive, x, scope=f"classifier.{3 * layer}")
        return x


def _resnet(builder: _Builder, resnet: ResNet) -> int | None:
    """A bottleneck ResNet with strides in the 3x3 convolutions, as in torchvision."""

    def conv_norm(x, outputs, kernel, stride, conv, norm):
        inputs = builder.shape(x)[-1]
        pad = kernel // 2
        x = builder.add(ops.Conv(inputs, outputs, (kernel, kernel), (stride, stride), (pad, pad)), x, scope=conv)
        return builder.add(ops.BatchNorm(outputs), x, scope=norm)

    large = builder.task.large_images
    x = conv_norm(INPUT, resnet.width, 7 if large else 3, 2 if large else 1, "conv1", "bn1")
    x = builder.add(ops.Relu(), x)
    if large:
        x = builder.add(_same(ops.MaxPool, 3, 2), x)
    for stage, depth in enumerate(resnet.depths):
        width = resnet.width * 2**stage
        for block in range(depth):
            scope = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            y = builder.add(ops.Relu(), conv_norm(x, width, 1, 1, f"{scope}.conv1", f"{scope}.bn1"))
            y = builder.add(ops.Relu(), conv_norm(y, width, 3, stride, f"{scope}.conv2", f"{scope}.bn2"))
            y = conv_norm(y, 4 * width, 1, 1, f"{scope}.conv3", f"{scope}.bn3")
            if not block:
                x = conv_norm(x, 4 * width, 1, stride, f"{scope}.downsample.0", f"{scope}.downsample.1")
            x = builder.add(ops.Relu(), builder.add(_ADD, y, x))
    x = builder.add(ops.GlobalAvgPool(), x)
    return builder.add(ops.Linear(4 * width, builder.task.num_classes, classifier=True), x, scope="fc")
