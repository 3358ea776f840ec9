"""SafeEditBench: pairs of a photo and its minimal edit, judged under five policies; made, labelled, checked, scored."""
