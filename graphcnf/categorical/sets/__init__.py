"""Sets of categories: `SetFlow`, whose density does not depend on the order of the elements.

`flow` has the model, `attention` networks that are blind to where an element stands, `elements` the
coupling that transforms one element after the other in an order of its own.
"""
