"""Files of DeepNets-1M: reading those of the paper, writing our own."""
