"""What chemists ask of molecules: properties, descriptors, filters, alerts, pictures and scores.

It is built on `molecules`. Nothing here draws molecules or knows how they are drawn.
"""
