"""Detection: a network of DeepNets-1M, with predicted or random parameters, as the backbone of a Faster R-CNN."""
