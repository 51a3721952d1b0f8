"""DeepNets-1M: a distribution of networks to train hypernetworks on, and splits of it to test them with."""
