"""A small SafeEditBench out of labelled photos: the boxes are painted over, the truth follows from the labels."""
