"""Morphs: the weights of a video's frames or of a grid's cells, and the files that show them."""
