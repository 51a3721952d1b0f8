"""What the paper does with a hypernetwork, as a library."""
