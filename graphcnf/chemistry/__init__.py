"""What chemists ask of molecules: properties, filters, alerts, scores, standard forms, pictures."""

from graphcnf.registry import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "COUNTS": "descriptors",
        "Filters": "filters",
        "PROPERTIES": "descriptors",
        "RANGES": "descriptors",
        "charge_states": "standardize",
        "draw_grid": "drawing",
        "parse_standardized": "standardize",
        "properties_of": "properties",
        "score": "scoring",
        "similarity_to": "properties",
        "standardized": "standardize",
    },
)
