"""Other models of graphs: GraphNVP, GraphAF, R-VAE; each a coding of `GraphCNF`."""
