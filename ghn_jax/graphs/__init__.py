"""What a hypernetwork reads: graphs, their fixed sizes, tables and pictures of them, and trees of parameters."""
