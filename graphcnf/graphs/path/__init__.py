"""Graph models that go node by node along a depth-first path."""
