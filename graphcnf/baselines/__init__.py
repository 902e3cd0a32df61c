"""Other systems, written from their papers on the flows, graphs and training loop here."""
