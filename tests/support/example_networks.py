"""Small networks that together use every primitive, both stems, both heads and networks without normalisation."""

from ghn_jax.networks.architecture import Architecture, Genotype, ResNet

MIXED = Genotype(
    normal=(("sep_conv_3x3", 0), ("cse", 1), ("dil_conv_3x3", 2), ("none", 0)),
    normal_concat=(2, 3),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1), ("avg_pool_3x3", 1), ("conv_7x1_1x7", 2)),
    reduce_concat=(2, 3),
)
ATTENTIVE = Genotype(
    normal=(("msa", 0), ("conv_1x1", 1)), normal_concat=(2,), reduce=(("msa", 1), ("none", 0)), reduce_concat=(2,)
)
ABSENT = Genotype(  # state 2 does not exist: its part of the concatenation is zeros
    normal=(("none", 0), ("none", 1), ("conv_3x3", 0), ("conv_5x5", 1)),
    normal_concat=(2, 3),
    reduce=(("none", 0), ("none", 1), ("conv_7x7", 0), ("dil_conv_5x5", 1)),
    reduce_concat=(2, 3),
)
TWICE = Genotype(  # sums and concatenations of an activation with itself
    normal=(("skip_connect", 0), ("skip_connect", 1), ("skip_connect", 2), ("none", 0)),
    normal_concat=(2, 3),
    reduce=(("conv_3x3", 1), ("none", 0), ("avg_pool_3x3", 2), ("skip_connect", 2)),
    reduce_concat=(2, 3),
)
ALONE = Genotype(  # the same without anything before it
    normal=(("skip_connect", 0), ("skip_connect", 1)), normal_concat=(2,),
    reduce=(("conv_1x1", 0), ("conv_1x1", 1)), reduce_concat=(2,),
)  # fmt: skip
NETWORKS = {
    "mixed": Architecture(MIXED, n_cells=3, C=8, stem_type=1, fc_layers=2, fc_dim=16),
    "attentive": Architecture(ATTENTIVE, n_cells=2, C=8),
    "absent": Architecture(ABSENT, n_cells=2, C=8, stem_pool=True, C_mult=1),
    "flat": Architecture(MIXED, n_cells=2, C=8, stem_pool=True, glob_avg=False, norm=None),
    "twice": Architecture(TWICE, n_cells=2, C=8),
    "alone": Architecture(ALONE, n_cells=2, C=8, preproc=False, C_mult=1),
    "resnet": ResNet(depths=(1, 1), width=8),
}
