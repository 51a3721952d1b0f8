"""Training a hypernetwork by the loss of the networks it predicts."""
