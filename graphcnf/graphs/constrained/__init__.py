"""Graphs that hold a fragment: particles over the states of the path network, with weights."""
