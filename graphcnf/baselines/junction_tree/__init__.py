"""JT-VAE: graphs as trees of clusters; a coding of `GraphCNF`."""
