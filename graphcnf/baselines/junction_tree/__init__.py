"""JT-VAE, a graph model: graphs as trees of clusters."""
