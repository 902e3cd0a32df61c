"""Graph models after other systems: GraphNVP, GraphAF, R-VAE."""
