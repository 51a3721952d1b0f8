"""What makes embeddings of nodes, one module a kind."""
