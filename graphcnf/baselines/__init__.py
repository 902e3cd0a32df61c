"""Other systems on the same core, each written from its paper, to compare the flows with."""
